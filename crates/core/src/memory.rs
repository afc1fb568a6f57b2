//! How much memory there is, so that work that cannot fit is refused before it begins.
//!
//! On Linux: what the kernel says is available, what the process's control groups (version 1 or 2) leave, and what its limit of
//! address space leaves, whichever is least. Elsewhere nothing is known, and nothing is refused.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Bytes that the process can still take; none where nobody says it.
pub fn available() -> Option<u64> {
    available_in(Path::new("/"))
}

/// An error if something takes more memory than there is. `what` is its subject: "the keys of 32 layers".
///
/// # Errors
/// [`Error::Usage`] with both numbers.
pub fn check(what: &str, bytes: u64) -> Result<()> {
    refuse(what, bytes, available())
}

fn refuse(what: &str, bytes: u64, available: Option<u64>) -> Result<()> {
    match available.filter(|available| bytes > *available) {
        None => Ok(()),
        Some(available) => {
            let [needed, there] = [bytes, available].map(|bytes| bytes.div_ceil(1 << 20));
            Err(Error::Usage(format!("{what}: about {needed} MiB of memory are needed, and {there} MiB are available")))
        }
    }
}

/// As [`available`], of a system whose files are below `root`.
fn available_in(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let of_machine = read("proc/meminfo").and_then(|text| kilobytes(&text, "MemAvailable:"));
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let of_groups = groups.lines().filter_map(|line| left_by_group(root, line)).min();
    let of_limit = read("proc/self/limits").and_then(|limits| {
        let line = limits.lines().find(|line| line.starts_with("Max address space"))?;
        let most: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
        let taken = kilobytes(&read("proc/self/status")?, "VmSize:")?;
        Some(most.saturating_sub(taken))
    });
    [of_machine, of_groups, of_limit].into_iter().flatten().min()
}

/// Bytes of a line such as `MemAvailable:    23437364 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a control group, and those that it is in, leave; `line` is its own of `/proc/self/cgroup`. None where none has a limit.
fn left_by_group(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let [folder, limit, usage, inactive] = match controllers {
        "" => ["sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"],
        c if c.split(',').any(|c| c == "memory") => {
            ["sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        }
        _ => return None,
    };
    let top = root.join(folder);
    let own: PathBuf = top.join(path.trim_start_matches('/'));
    let left = |group: &Path| -> Option<u64> {
        let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        // No number, but "max", where there is no limit.
        let (limit, usage) = (number(limit)?, number(usage)?);
        // Pages of files that nobody needs at once are given back.
        let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(inactive)))
    };
    own.ancestors().take_while(|group| group.starts_with(&top)).filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_of_machine_groups_and_limit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(available_in(root), None, "nothing is known");
        put(root, "proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    8000 kB\n");
        assert_eq!(available_in(root), Some(8000 << 10));
        put(root, "proc/self/cgroup", "0::/job/step\n");
        put(root, "sys/fs/cgroup/job/step/memory.max", "max\n");
        put(root, "sys/fs/cgroup/job/step/memory.current", "1000\n");
        put(root, "sys/fs/cgroup/job/memory.max", "5000000\n");
        put(root, "sys/fs/cgroup/job/memory.current", "3000000\n");
        assert_eq!(available_in(root), Some(2_000_000));
        put(root, "sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 500000\n");
        assert_eq!(available_in(root), Some(2_500_000));
        put(root, "proc/self/cgroup", "5:cpu:/a\n4:memory,x:/b\n");
        assert_eq!(available_in(root), Some(8000 << 10));
        put(root, "sys/fs/cgroup/memory/b/memory.limit_in_bytes", "3000000\n");
        put(root, "sys/fs/cgroup/memory/b/memory.usage_in_bytes", "1000000\n");
        assert_eq!(available_in(root), Some(2_000_000));
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax address space         5000000  unlimited  bytes\n";
        put(root, "proc/self/limits", limits);
        put(root, "proc/self/status", "Name: x\nVmSize:\t    4000 kB\n");
        assert_eq!(available_in(root), Some(5_000_000 - (4000 << 10)));
        put(root, "proc/self/limits", &limits.replace("5000000", "unlimited"));
        assert_eq!(available_in(root), Some(2_000_000));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        assert!(refuse("the cache", 5 << 20, None).is_ok() && refuse("the cache", 5 << 20, Some(5 << 20)).is_ok());
        let e = refuse("the cache", 5 << 20, Some(3 << 20)).unwrap_err();
        assert!(matches!(e, Error::Usage(_)));
        assert_eq!(e.to_string(), "the cache: about 5 MiB of memory are needed, and 3 MiB are available");
        assert!(check("a machine", u64::MAX).is_err() || available().is_none());
    }
}
