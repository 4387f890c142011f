//! How large this machine is. Read at once, without asking any filesystem.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes.
    pub memory: u64,
    pub cores: u32,
}

/// None where the operating system does not tell.
pub fn capacity() -> Option<Capacity> {
    let wanted =
        RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()).with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted).ok()?;
    let capacity = Capacity { memory: system.total_memory(), cores: u32::try_from(system.cpus().len()).ok()? };
    (capacity.memory > 0 && capacity.cores > 0).then_some(capacity)
}
