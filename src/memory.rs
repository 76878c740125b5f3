//! How much memory this process may use: what the system has available without swapping, and what the control groups of the
//! process still allow. Only Linux is supported; on other systems nothing is known. And how memory that was freed is given
//! back to the system.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// What limits the available memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// `MemAvailable` of /proc/meminfo.
    System,
    /// The limit of a control group, version 2.
    CgroupV2,
    /// The limit of a control group, version 1.
    CgroupV1,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the system",
            Self::CgroupV2 => "the control group's limit (v2)",
            Self::CgroupV1 => "the control group's limit (v1)",
        })
    }
}

/// Memory that is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Number of bytes.
    pub bytes: u64,
    /// The source that allows the fewest bytes.
    pub source: Source,
}

/// Gives the system what the allocator keeps of freed memory.
///
/// The GNU C library has a pool of memory for each few threads, and keeps what is freed in a pool for later. A model is loaded
/// on a thread of its own, so without this the tokenizer and the tables of a model that comes and goes stay in one pool after
/// the other. It takes milliseconds, in which other threads may wait for memory. With another C library it does nothing.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it may be called at any time by any thread, and touches nothing that is allocated (malloc_trim(3)).
        let _anything_given = unsafe { libc::malloc_trim(0) };
    }
}

/// Memory that this process can use now, in addition to what it uses already; `None` if that is not known.
pub fn available() -> Option<Available> {
    available_below(Path::new("/"))
}

fn available_below(root: &Path) -> Option<Available> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let system = fs::read_to_string(root.join("proc/meminfo")).ok();
    let system = system.as_deref().and_then(mem_available);
    let fs_root = root.join("sys/fs/cgroup");
    let candidates = [
        (Source::System, system),
        (Source::CgroupV2, least(&v2_folders(&fs_root, &own), &V2)),
        (Source::CgroupV1, least(&v1_folders(&fs_root, &own), &V1)),
    ];
    let known = candidates.into_iter().filter_map(|(source, bytes)| {
        Some(Available {
            bytes: bytes?,
            source,
        })
    });
    known.min_by_key(|available| available.bytes)
}

/// The files in which a version of control groups keeps its numbers.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Key in `memory.stat` of file pages that are dropped as soon as memory is needed.
    reclaimable: &'static str,
}

const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file ",
};

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

/// The fewest bytes that any of these groups still allows.
fn least(folders: &[PathBuf], files: &Files) -> Option<u64> {
    folders.iter().filter_map(|folder| allowed(folder, files)).min()
}

fn allowed(folder: &Path, files: &Files) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // Without a limit, version 2 writes "max", and version 1 a number that is larger than any machine's memory.
    let limit = number(files.limit).filter(|limit| *limit < 1 << 60)?;
    let usage = number(files.usage).unwrap_or(0);
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix(files.reclaimable)?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable.unwrap_or(0))))
}

/// Folders of the process's control group and of those above it. In a container, its own group is the topmost.
fn v2_folders(root: &Path, own: &str) -> Vec<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"));
    let mounts = [root.to_path_buf(), root.join("unified")];
    mounts.iter().flat_map(|mount| ancestors(mount, path)).collect()
}

fn v1_folders(root: &Path, own: &str) -> Vec<PathBuf> {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers
            .split(',')
            .any(|name| name == "memory")
            .then_some(path)
    });
    ancestors(&root.join("memory"), path)
}

fn ancestors(mount: &Path, path: Option<&str>) -> Vec<PathBuf> {
    let group = mount.join(path.unwrap_or_default().trim_start_matches('/'));
    let above = group.ancestors().filter(|folder| folder.starts_with(mount));
    above.map(Path::to_path_buf).collect()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A number of bytes for people, for example `1.1 GiB` for `1234567890`.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder that contains these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       2000 kB\nMemAvailable:   1000 kB\nBuffers: 1 kB\n",
    );

    #[test]
    fn without_a_limit_the_system_decides() {
        assert_eq!(available_below(root(&[]).path()), None);
        let unlimited = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/user.slice\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        let found = available_below(unlimited.path()).unwrap();
        assert_eq!((found.bytes, found.source), (1_024_000, Source::System));
    }

    #[test]
    fn the_tightest_group_above_the_process_counts_less_what_it_uses() {
        let limited = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/pods/guard\n"),
            ("sys/fs/cgroup/pods/guard/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "500000\n"),
            ("sys/fs/cgroup/pods/memory.current", "300000\n"),
            (
                "sys/fs/cgroup/pods/memory.stat",
                "anon 5\ninactive_file 100000\nactive_file 7\n",
            ),
        ]);
        let found = available_below(limited.path()).unwrap();
        assert_eq!((found.bytes, found.source), (300_000, Source::CgroupV2));
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_top() {
        let container = root(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/docker/0123\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "150000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 50000\n"),
        ]);
        let found = available_below(container.path()).unwrap();
        assert_eq!((found.bytes, found.source), (300_000, Source::CgroupV1));
    }

    #[test]
    fn this_machine_says_something_on_linux() {
        if Path::new("/proc/meminfo").exists() {
            assert!(available().unwrap().bytes > 0);
        }
    }

    #[test]
    fn bytes_are_rounded_for_people() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(512 << 20), "512.0 MiB");
        assert_eq!(human_bytes(98_362_432), "93.8 MiB");
    }
}
