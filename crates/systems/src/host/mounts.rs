//! Which mounted filesystems matter, from `/proc/self/mountinfo`. Pure: text in, candidates out.
//!
//! Without a list from the configuration: those that keep data (on a device, over the network, a pool), each device
//! once, and the root whatever it is. Left out are pseudo filesystems, read-only images, container layers, and single
//! files that are mounted (a container's `/etc/hosts`).

/// A mount that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: String,
    pub(super) filesystem: String,
    pub(super) read_only: bool,
    /// Named by the configuration: shown whatever it is.
    pub(super) named: bool,
}

impl Candidate {
    /// May hang when its server is gone: asked last.
    pub(super) fn remote(&self) -> bool {
        REMOTE.contains(&self.filesystem.as_str()) || self.filesystem.starts_with("fuse")
    }
}

const LOCAL: [&str; 17] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "vfat", "exfat", "ntfs",
    "ntfs3", "fuseblk", "virtiofs", "gfs2",
];
const REMOTE: [&str; 9] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "lustre", "9p"];

struct Line {
    device: String,
    /// The folder of the filesystem that is mounted; `/` unless it is a bind mount or a subvolume.
    root: String,
    path: String,
    mount_read_only: bool,
    filesystem: String,
    filesystem_read_only: bool,
}

/// `named` empty: all that matter. Otherwise exactly those, and an error text for each that is not mounted.
pub(super) fn select(mountinfo: &str, named: &[String]) -> (Vec<Candidate>, Vec<String>) {
    let mut lines: Vec<Line> = Vec::new();
    for line in mountinfo.lines().filter_map(parse) {
        // Of several mounts on one folder the last is the one that is seen.
        lines.retain(|earlier| earlier.path != line.path);
        lines.push(line);
    }
    if named.is_empty() {
        return (each_device_once(lines), Vec::new());
    }
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for path in named {
        let wanted = if path == "/" { path } else { path.trim_end_matches('/') };
        match lines.iter().find(|line| line.path == wanted) {
            Some(line) => found.push(Candidate {
                path: line.path.clone(),
                filesystem: line.filesystem.clone(),
                read_only: line.mount_read_only || line.filesystem_read_only,
                named: true,
            }),
            None => missing.push(format!("{path}: nothing is mounted there")),
        }
    }
    (found, missing)
}

fn each_device_once(lines: Vec<Line>) -> Vec<Candidate> {
    let mut kept: Vec<Line> = Vec::new();
    for line in lines.into_iter().filter(keeps_data) {
        // The whole filesystem before a part of it, then the shorter path.
        let rank = |line: &Line| (line.root != "/", line.path.len());
        match kept.iter_mut().find(|other| other.device == line.device) {
            Some(other) if rank(&line) < rank(other) => *other = line,
            Some(_) => {}
            None => kept.push(line),
        }
    }
    kept.into_iter()
        .map(|line| Candidate {
            // After an error the kernel makes the filesystem read-only and leaves the mount's own option alone; somebody
            // who mounts read-only sets both.
            read_only: line.filesystem_read_only && !line.mount_read_only,
            path: line.path,
            filesystem: line.filesystem,
            named: false,
        })
        .collect()
}

fn keeps_data(line: &Line) -> bool {
    let kind = line.filesystem.as_str();
    line.path == "/" || LOCAL.contains(&kind) || REMOTE.contains(&kind)
}

/// `27 1 254:0 / /mnt rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro`
fn parse(line: &str) -> Option<Line> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let (device, root, path, options) = (mount.next()?, mount.next()?, mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, super_options) = (filesystem.next()?, filesystem.nth(1)?);
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Line {
        device: device.to_owned(),
        root: root.to_owned(),
        path: unescaped(path),
        mount_read_only: read_only(options),
        filesystem: kind.to_owned(),
        filesystem_read_only: read_only(super_options),
    })
}

/// The kernel writes space, tab, newline and backslash as `\040` and so on.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 1 0:21 / /proc rw,relatime - proc proc rw
24 1 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12331664k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
28 27 254:0 /etc/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw
29 27 8:17 / /data\\040one rw,relatime - xfs /dev/sdb1 rw
30 27 8:17 /sub /aliased rw,relatime - xfs /dev/sdb1 rw
31 27 7:1 / /snap/core/1 ro,nodev,relatime - squashfs /dev/loop1 ro
32 27 0:44 / /run rw,nosuid - tmpfs tmpfs rw,size=800m
33 27 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/l
34 27 0:60 / /mnt/share rw,relatime - nfs4 server:/share rw,vers=4.2
";

    fn paths(mountinfo: &str) -> Vec<String> {
        select(mountinfo, &[]).0.into_iter().map(|candidate| candidate.path).collect()
    }

    #[test]
    fn data_is_watched_each_device_once() {
        assert_eq!(paths(HOST), ["/", "/data one", "/mnt/share"]);
        assert!(select(HOST, &[]).0[2].remote());
    }

    #[test]
    fn in_a_container_the_layered_root_counts_and_volumes_do() {
        let container = "\
500 400 0:70 / / rw,relatime - overlay overlay rw,lowerdir=/l
501 500 254:0 /var/lib/docker/volumes/pg/_data /data rw,relatime - ext4 /dev/vda rw
502 500 254:0 /var/lib/docker/containers/x/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
";
        assert_eq!(paths(container), ["/", "/data"]);
    }

    #[test]
    fn only_an_unwanted_read_only_is_told_unless_the_mount_is_named() {
        let mounts = "\
1 0 8:1 / / rw,relatime - ext4 /dev/sda1 ro,errors=remount-ro
2 1 8:2 / /boot ro,relatime - ext4 /dev/sda2 ro
";
        let (found, _) = select(mounts, &[]);
        assert_eq!(found.iter().map(|mount| mount.read_only).collect::<Vec<_>>(), [true, false]);
        let (named, missing) = select(mounts, &["/boot/".into(), "/gone".into()]);
        assert!(named.len() == 1 && named[0].read_only && named[0].named);
        assert_eq!(missing, ["/gone: nothing is mounted there"]);
    }

    #[test]
    fn a_named_mount_is_shown_whatever_it_is() {
        assert_eq!(select(HOST, &["/run".into()]).0[0].filesystem, "tmpfs");
    }

    #[test]
    fn the_last_mount_on_a_folder_is_the_one_that_is_seen() {
        let twice = "1 0 8:1 / /d rw - ext4 /dev/a rw\n2 0 8:2 / /d rw - xfs /dev/b rw\n";
        assert_eq!(select(twice, &[]).0[0].filesystem, "xfs");
    }

    #[test]
    fn no_text_makes_it_panic() {
        for end in 0..HOST.len() {
            let _ = select(&HOST[..end], &[]);
            let mut changed = HOST.as_bytes().to_vec();
            changed[end] = b'\\';
            let _ = select(&String::from_utf8_lossy(&changed), &["/".into()]);
        }
        assert_eq!(unescaped("\\04"), "\\04");
        assert_eq!(unescaped("\\777a\\"), "\\777a\\");
    }
}
