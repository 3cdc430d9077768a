//! What a picture of an unusual shape may cost. One test in a process of its own: the peak of the process is read.

use std::fs;

use pcqa::media::resize;

/// Most memory that this process ever held, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn resizing_an_extreme_shape_costs_little_more_than_the_square() {
    // Between two separate passes the tall one would be 65,535 rows of 512 pixels, 100 MB. All rows of the large square
    // are made of one; their sums, held at once, would be 50 MB.
    for (width, height, side) in [(1, 65_535, 512), (65_535, 1, 512), (1, 1, 2048)] {
        let picture = vec![200; width as usize * height as usize * 3];
        let before = peak();
        let square = resize(&picture, width, height, side);
        let cost = peak() - before;
        assert!(square.iter().all(|&level| level == 200));
        assert!(cost < 32 << 20, "{cost} bytes for a square of {}", square.len());
    }
}
