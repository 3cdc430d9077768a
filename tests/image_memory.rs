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
fn resizing_a_thread_of_pixels_costs_little_more_than_the_square() {
    // Between two separate passes this would be 65,535 rows of 512 pixels, 100 MB.
    let (height, side) = (65_535, 512);
    let picture = vec![200; height as usize * 3];
    let before = peak();
    let square = resize(&picture, 1, height, side);
    let cost = peak() - before;
    assert!(square.iter().all(|&level| level == 200));
    assert!(cost < 32 << 20, "{cost} bytes for a square of {}", square.len());
}
