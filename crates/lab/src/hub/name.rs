//! The spelling of what is on the hub: `owner/name[@revision][:inside]`.

use std::fmt;

use super::cache::is_commit;

/// The revision where none is named.
const MAIN: &str = "main";

/// Repositories of the hub that have no owner in their name, from the time before there were owners.
const WITHOUT_OWNER: [&str; 5] = ["distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"];

/// A repository of the hub, at a revision, or something inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubName {
    /// `owner/name`.
    pub(crate) repository: String,
    /// A branch, a tag or a commit.
    pub(crate) revision: String,
    /// A file, a folder or a split.
    pub(crate) inside: Option<String>,
}

impl HubName {
    /// What `name` spells; `None` if it cannot be on the hub. `alias` may know a repository by another name.
    pub(crate) fn parse(name: &str, alias: impl Fn(&str) -> Option<&'static str>) -> Option<HubName> {
        let (front, inside) = match name.split_once(':') {
            Some((front, inside)) => (front, Some(inside)),
            None => (name, None),
        };
        let (repository, revision) = front.split_once('@').unwrap_or((front, MAIN));
        let repository = alias(repository).unwrap_or(repository);
        let inside = inside.map(|inside| inside.trim_end_matches('/').to_owned());
        let is_name = is_repository(repository)
            && is_path(revision, |c| c.is_ascii_alphanumeric() || "._-+".contains(c))
            && inside.as_deref().is_none_or(|inside| is_path(inside, |c| !c.is_control() && c != '\\'));
        is_name.then(|| HubName { repository: repository.into(), revision: revision.into(), inside })
    }

    /// Whether the revision is a commit in full.
    pub(crate) fn is_at_commit(&self) -> bool {
        is_commit(&self.revision)
    }

    /// The same at a commit, as results name it.
    pub(crate) fn at(&self, commit: &str) -> HubName {
        HubName { revision: commit.into(), ..self.clone() }
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if self.revision != MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.inside.iter().try_for_each(|inside| write!(f, ":{inside}"))
    }
}

/// The hub's own rule for names, of which a part is at most 96 characters of `A-Z a-z 0-9 . _ -`.
fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let ends = |c: char| c == '-' || c == '.';
        !part.is_empty()
            && part.len() <= 96
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !part.starts_with(ends)
            && !part.ends_with(ends)
            && !part.contains("--")
            && !part.contains("..")
    };
    match name.split_once('/') {
        Some((owner, name)) => is_part(owner) && is_part(name),
        None => WITHOUT_OWNER.contains(&name),
    }
}

/// Whether `path` is parts between slashes that lead nowhere but down, each of characters that may be.
fn is_path(path: &str, may_be: impl Fn(char) -> bool) -> bool {
    path.len() <= 1024
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255)
        && path.chars().all(|c| c == '/' || may_be(c))
}

/// Whether a file that the hub names may be written below a folder under that name.
pub(super) fn is_safe_file(path: &str) -> bool {
    let is_plain = |part: std::path::Component| matches!(part, std::path::Component::Normal(_));
    is_path(path, |c| !c.is_control() && c != '\\') && std::path::Path::new(path).components().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::{HubName, is_safe_file};

    fn parse(name: &str) -> Option<HubName> {
        HubName::parse(name, |_| None)
    }

    #[test]
    fn every_part_is_found_and_spelled_again() {
        for (name, repository, revision, inside) in [
            ("a/b", "a/b", "main", None),
            ("gpt2", "gpt2", "main", None),
            ("a/b.c_d-e@v1.0", "a/b.c_d-e", "v1.0", None),
            ("a/b@refs/pr/1:c/d", "a/b", "refs/pr/1", Some("c/d")),
            ("a/b:c d/e@f:g", "a/b", "main", Some("c d/e@f:g")),
        ] {
            let found = parse(name).unwrap();
            assert_eq!((&*found.repository, &*found.revision, found.inside.as_deref()), (repository, revision, inside));
            assert_eq!(found.to_string(), name);
        }
        assert_eq!(parse("a/b:c/").unwrap().inside.unwrap(), "c");
        assert_eq!(parse("a/b:c").unwrap().at("0123").to_string(), "a/b@0123:c");
    }

    #[test]
    fn what_cannot_be_on_the_hub_is_not_asked_for() {
        for name in [
            "",
            "a",
            "a/b/c",
            "./a",
            "../a",
            "/a/b",
            "a/",
            "/a",
            "a/b@",
            "a/b:",
            "a/b@../c",
            "a/b:../c",
            "a/b:c//d",
            "a/b:/c",
            "a/b:c/./d",
            "a/-b",
            "a/b--c",
            "a/b..c",
            "a/b c",
            "a\\b",
            "a/b@c d",
            "a/b:c\\d",
            "a/b:c\nd",
            "~/a",
            "C:\\a",
            "é/b",
        ] {
            assert_eq!(parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_file_is_written_below_its_folder_only() {
        for name in ["config.json", "a/b/c.npz", "data/train-00000-of-00001.parquet", "a b.txt", "..a/b..", "é"] {
            assert!(is_safe_file(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../a", "a/../../b", "a//b", "a/.", "a\\b", "a\0b", "a/", "\u{1b}[2J"] {
            assert!(!is_safe_file(name), "{name:?}");
        }
        assert!(!is_safe_file(&"a".repeat(256)));
    }
}
