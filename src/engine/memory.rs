//! Memory of devices, asked for by whoever wants to know, from any thread.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::Device;
use crate::native;

/// Bytes of memory of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In use; of the CPU, by this process alone, of a GPU by all.
    pub used: u64,
    /// All that there is; of the CPU, the most that this process may have.
    pub total: u64,
}

impl Memory {
    /// Of `device` now, where it can be found out.
    pub fn of(device: Device) -> Option<Self> {
        match device {
            Device::Cpu => Some(Self { used: resident()?, total: limit()? }),
            _ => {
                let memory = native::memory(device).ok()??;
                Some(Self { used: memory.total.saturating_sub(memory.free), total: memory.total })
            }
        }
    }
}

fn resident() -> Option<u64> {
    of_key(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// What the machine has, or less where a control group says so.
fn limit() -> Option<u64> {
    let machine = of_key(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    Some(limits.fold(machine, u64::min))
}

/// The bytes in a line such as `VmRSS:  1024 kB`.
fn of_key(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok().map(|kib: u64| kib * 1024)
}

/// The files that may hold a limit, of the process's control group and of those around it. `groups` is
/// /proc/self/cgroup: `0::/a/b` for version 2, `5:memory:/a/b` for version 1. In a container the group's own path may
/// not be there; that of its root is. A file without a limit holds `max` or more bytes than any machine has.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let relative = Path::new(path).strip_prefix("/").unwrap_or(Path::new(""));
        files.extend(relative.ancestors().map(|group| Path::new(mount).join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_no_more_than_there_is() {
        let Memory { used, total } = Memory::of(Device::Cpu).unwrap();
        assert!(1 << 20 < used && used < total, "{used} {total}");
    }

    #[test]
    fn limits_are_looked_for_in_every_group_around_the_process() {
        let files = |groups| limit_files(groups).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            files("0::/pods/server\n"),
            ["/sys/fs/cgroup/pods/server/memory.max", "/sys/fs/cgroup/pods/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            files("7:cpu,cpuacct:/a\n5:memory:/a\nnonsense\n"),
            ["/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }
}
