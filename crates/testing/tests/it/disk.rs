//! The small disk. Where mounting is not permitted, what can be tested is that the error says so.

use std::io::ErrorKind;

use groundskeeper_testing::SmallDisk;

const MIB: u64 = 1024 * 1024;

#[test]
fn a_small_disk_fills_up_makes_room_and_goes_away() {
    let disk = match SmallDisk::mount(4) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(error.to_string().contains("not permitted here"), "{error:#}");
            return;
        }
    };
    assert_eq!(disk.size().unwrap(), 4 * MIB);
    disk.fill_to(90).unwrap();
    let free = disk.free().unwrap();
    assert!((3 * MIB / 10..MIB / 2).contains(&free), "{free} bytes are free of 4 MiB at 90 %");

    disk.fill_to(100).unwrap();
    let refused = std::fs::write(disk.path().join("more"), [1; 8192]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);

    disk.fill_to(10).unwrap();
    std::fs::write(disk.path().join("more"), [1; 8192]).unwrap();

    let path = disk.path().to_owned();
    drop(disk);
    assert!(!path.exists());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()), "still mounted");
}
