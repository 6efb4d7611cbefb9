//! How much memory this process may have, so that what cannot fit is refused before it is asked for.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// A part of what some work will hold in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// The option to lower if it is too much.
    pub option: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// Whether the machine has the memory that some work needs at least. Where its memory is not known, it has.
///
/// # Errors
/// [`Error::Memory`] says how much is needed, how much there is, and which option asks for most of it.
pub fn check_memory(needs: &[Need]) -> Result<()> {
    let needed = needs.iter().fold(0_u64, |sum, need| sum.saturating_add(need.bytes));
    match (memory(), needs.iter().max_by_key(|need| need.bytes)) {
        (Some(there), Some(most)) if needed > there => Err(Error::Memory { option: most.option, needed, there }),
        _ => Ok(()),
    }
}

/// Bytes of memory that this process may have: the machine's, or less where its control group or the shell's `ulimit -v` says so.
/// None where the system does not tell.
pub fn memory() -> Option<u64> {
    let machine = of_file(Path::new("/proc/meminfo"), |text| kilobytes(line(text, "MemTotal:")?));
    let process = of_file(Path::new("/proc/self/limits"), |text| line(text, "Max address space")?.parse().ok());
    let groups = of_file(Path::new("/proc/self/cgroup"), |text| of_groups(text, Path::new("/sys/fs/cgroup")));
    [machine, process, groups].into_iter().flatten().min()
}

/// Bytes of memory that this process has had at most so far, what it has mapped of files and touched among them. None where the system
/// does not tell.
pub fn peak_memory() -> Option<u64> {
    of_file(Path::new("/proc/self/status"), |text| kilobytes(line(text, "VmHWM:")?))
}

/// The smallest limit of the control groups that `text` (`/proc/self/cgroup`) names and of those above them.
fn of_groups(text: &str, mounted: &Path) -> Option<u64> {
    let limits = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // Version 2 has one hierarchy without a name; version 1 has one for each controller.
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            "memory" => (mounted.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let own = root.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(&root));
        above.filter_map(|folder| of_file(&folder.join(file), |text| text.trim().parse().ok())).min()
    });
    limits.min()
}

fn of_file(path: &Path, read: impl FnOnce(&str) -> Option<u64>) -> Option<u64> {
    read(&fs::read_to_string(path).ok()?)
}

/// The first word after `name` at the beginning of a line.
fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

fn kilobytes(text: &str) -> Option<u64> {
    text.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_option_to_lower() {
        let need = |option, bytes| Need { option, bytes };
        check_memory(&[need("buffer", 1)]).unwrap();
        if memory().is_some() {
            let error = check_memory(&[need("buffer", u64::MAX), need("expansion", 5)]).unwrap_err().to_string();
            assert!(error.contains("18446744073.7 GB") && error.ends_with("lower buffer"), "{error}");
        }
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_above_it_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mounted.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "5000\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "7000\n");
        let of = |text| of_groups(text, mounted.path());
        assert_eq!(of("0::/a/b\n"), Some(5000));
        assert_eq!(of("4:memory:/c\n3:cpu:/c\n0::/\n"), Some(7000));
        assert_eq!(of("0::/\n"), None);
    }
}
