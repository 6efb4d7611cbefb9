//! What can go wrong between the hub, its cache and us.

use std::path::PathBuf;

/// An error of the hub: what was asked for, what was answered, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Something is not in the cache, and the network is not to be used.
    #[error(
        "{missing} of `{name}` is not in the cache `{}`, and HF_HUB_OFFLINE keeps off the network; run once without HF_HUB_OFFLINE, or copy `{folder}` there from a machine that has it",
        cache.display()
    )]
    Offline {
        /// What was asked for.
        name: String,
        /// What is missing of it.
        missing: String,
        /// The cache.
        cache: PathBuf,
        /// The repository's folder in a cache.
        folder: String,
    },
    /// The hub has no such repository, or does not show it.
    #[error(
        "nothing on disk is called `{name}`, and the hub {endpoint} has no such repository{said}; check the name{token}"
    )]
    NoRepository {
        /// What was asked for.
        name: String,
        /// The hub.
        endpoint: String,
        /// What it said.
        said: String,
        /// What to do if it is private.
        token: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("`{name}` has no revision `{revision}`{said}; name a branch, a tag or a commit of it behind the @")]
    NoRevision {
        /// The repository.
        name: String,
        /// What was asked for.
        revision: String,
        /// What the hub said.
        said: String,
    },
    /// The repository has no such file.
    #[error("`{name}` has no file `{file}`{said}; look at {endpoint}/{name} for what it has")]
    NoFile {
        /// The repository.
        name: String,
        /// What was asked for.
        file: String,
        /// The hub.
        endpoint: String,
        /// What it said.
        said: String,
    },
    /// The repository is open only to those who accepted its licence.
    #[error(
        "`{name}` is gated{said}; accept its licence at {endpoint}/{name}, and set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        name: String,
        /// The hub.
        endpoint: String,
        /// What it said.
        said: String,
    },
    /// The hub does not let us in.
    #[error("the hub does not give `{name}` to us ({status}{said}); {todo}")]
    Refused {
        /// The repository.
        name: String,
        /// The status.
        status: u16,
        /// What the hub said.
        said: String,
        /// What to do.
        todo: &'static str,
    },
    /// Too many requests.
    #[error("the hub has had too many requests from here (429{said}); try again {when}; what was downloaded is kept")]
    Busy {
        /// What the hub said.
        said: String,
        /// When to try again.
        when: String,
    },
    /// The hub is not well.
    #[error("the hub {endpoint} has a fault of its own ({status}{said}); try again later; what was downloaded is kept")]
    Server {
        /// The hub.
        endpoint: String,
        /// The status.
        status: u16,
        /// What it said.
        said: String,
    },
    /// There is no way to the hub.
    #[error(
        "cannot reach {host} for `{name}`, which nothing on disk is called: {reason}; check the name and the network (HTTPS_PROXY, HF_ENDPOINT), or set HF_HUB_OFFLINE=1 to use only what is on disk"
    )]
    Network {
        /// The host.
        host: String,
        /// What was asked for.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// A download ended early.
    #[error(
        "the download of `{file}` ended after {got} of {size} bytes: {reason}; run the same again, it goes on from there"
    )]
    Dropped {
        /// The file.
        file: String,
        /// Bytes that are there.
        got: u64,
        /// Bytes there should be.
        size: u64,
        /// What went wrong.
        reason: String,
    },
    /// The bytes are not those that the hub promised.
    #[error(
        "the download of `{file}` is not what the hub promised: {problem}; it was thrown away, run the same again; if it repeats, something between here and the hub changes files"
    )]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The answer is not one that a hub gives.
    #[error(
        "{url} does not answer as the hub does: {problem}; check HF_ENDPOINT, and whether a proxy answers in its place"
    )]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// A file would be written outside of its folder.
    #[error("`{name}` lists a file `{file}`, which is no name for a file below a folder; nothing of it is used")]
    FileName {
        /// The repository.
        name: String,
        /// The name.
        file: String,
    },
    /// A setting of the environment cannot be used.
    #[error("{setting} cannot be used: {problem}")]
    Setting {
        /// The variable.
        setting: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A repository does not hold what is looked for.
    #[error("`{name}` {problem}")]
    Contents {
        /// What was asked for.
        name: String,
        /// What is missing, and what to do.
        problem: String,
    },
    /// The work was stopped.
    #[error("stopped; what was downloaded is kept")]
    Stopped,
    /// The cache cannot be read or written.
    #[error(transparent)]
    Disk(#[from] directrix_corpus::Error),
}
