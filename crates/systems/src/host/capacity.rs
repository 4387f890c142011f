//! How large this machine is, or the container that we are in. Read at once; of files, only those of the kernel.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes: the machine's, or what the limit of our container leaves of it.
    pub memory: u64,
    pub cores: u32,
}

/// None where the operating system does not tell.
pub fn capacity() -> Option<Capacity> {
    let wanted =
        RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()).with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted).ok()?;
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    let memory = within(system.total_memory(), limit);
    let capacity = Capacity { memory, cores: u32::try_from(system.cpus().len()).ok()? };
    (capacity.memory > 0 && capacity.cores > 0).then_some(capacity)
}

/// Bytes. A limit of nothing is one that could not be read.
fn within(memory: u64, limit: Option<u64>) -> u64 {
    limit.filter(|limit| *limit > 0).map_or(memory, |limit| limit.min(memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_no_more_than_its_limit() {
        assert_eq!(within(8 << 30, Some(2 << 30)), 2 << 30);
        assert_eq!(within(8 << 30, Some(u64::MAX)), 8 << 30, "no limit");
        assert_eq!(within(8 << 30, Some(0)), 8 << 30);
        assert_eq!(within(8 << 30, None), 8 << 30);
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let capacity = capacity().unwrap();
        assert!(capacity.memory > 64 << 20 && capacity.cores > 0, "{capacity:?}");
    }
}
