//! A hub on this machine, as the real one answers: what repositories hold, their files, and where the large ones are, which is
//! another host. It notes what it is asked, and fails when it is told to.

#![allow(dead_code)]

pub(crate) mod place;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The token that private repositories want.
pub(crate) const TOKEN: &str = "hf_right";

/// What stands in for the hub until it is dropped.
pub(crate) struct StandIn {
    pub(crate) address: String,
    shared: Arc<Mutex<Shared>>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Of the other host, `files:/…`.
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

/// How an answer goes wrong, if the path asked for contains `at`; so many times.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: &'static str,
    pub(crate) times: usize,
    pub(crate) how: How,
}

#[derive(Debug, Clone)]
pub(crate) enum How {
    /// The connection is closed after so many bytes of the body.
    Drop(usize),
    /// Another status, with further headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// The body is this instead.
    Body(Vec<u8>),
    /// The header says this instead, or besides.
    Header(&'static str, String),
    /// A range that is asked for is overlooked.
    Whole,
    /// Every few kilobytes are waited for so long.
    Slow(Duration),
}

#[derive(Default)]
struct Shared {
    repositories: Vec<Repository>,
    requests: Vec<Request>,
    faults: Vec<Fault>,
    files: String,
}

struct Repository {
    kind: &'static str,
    name: String,
    gate: Gate,
    /// Commits by branch.
    commits: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
    /// What the hub lists besides, of which there is nothing.
    listed: Vec<Value>,
}

/// Who may read a repository.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Private,
    Gated,
}

impl StandIn {
    pub(crate) fn new() -> StandIn {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let serve = |is_hub: bool| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let shared = shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = shared.clone();
                    thread::spawn(move || serve_connection(stream, &shared, is_hub));
                }
            });
            address
        };
        let (address, files) = (serve(true), serve(false));
        shared.lock().unwrap().files = files;
        StandIn { address, shared }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Adds a repository; gives the commit of `main`.
    pub(crate) fn add<B: Into<Vec<u8>>>(
        &self,
        kind: &'static str,
        name: &str,
        files: impl IntoIterator<Item = (&'static str, B)>,
    ) -> String {
        self.add_gated(kind, name, Gate::Open, files)
    }

    pub(crate) fn add_gated<B: Into<Vec<u8>>>(
        &self,
        kind: &'static str,
        name: &str,
        gate: Gate,
        files: impl IntoIterator<Item = (&'static str, B)>,
    ) -> String {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(name, bytes)| (name.into(), bytes.into())).collect();
        let commit = hash(format!("{name} {:?}", files.keys()).as_bytes())[..40].to_owned();
        let commits = [("main".to_owned(), commit.clone()), ("refs/pr/1".to_owned(), commit.clone())].into();
        self.shared().repositories.push(Repository {
            kind,
            name: name.into(),
            gate,
            commits,
            files,
            listed: Vec::new(),
        });
        commit
    }

    /// Lists a file that there is not, or in another way than it is.
    pub(crate) fn list(&self, repository: &str, sibling: Value) {
        let mut shared = self.shared();
        shared.repositories.iter_mut().find(|other| other.name == repository).unwrap().listed.push(sibling);
    }

    pub(crate) fn fail(&self, at: &'static str, times: usize, how: How) {
        self.shared().faults.push(Fault { at, times, how });
    }

    pub(crate) fn mend(&self) {
        self.shared().faults.clear();
    }

    /// What was asked since it was last looked at.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared().requests)
    }
}

/// The files of a folder by name, those directly inside.
pub(crate) fn files_of(folder: impl AsRef<Path>, names: &[&'static str]) -> Vec<(&'static str, Vec<u8>)> {
    names.iter().map(|name| (*name, fs::read(folder.as_ref().join(name)).unwrap())).collect()
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Whether the hub keeps a file elsewhere, under its SHA-256.
fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".parquet", ".npz", ".pt", ".txt"].iter().any(|end| name.ends_with(end))
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn serve_connection(stream: TcpStream, shared: &Mutex<Shared>, is_hub: bool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let request =
            Request { path: if is_hub { request.path } else { format!("files:{}", request.path) }, ..request };
        let (reply, faults) = {
            let mut shared = shared.lock().unwrap();
            shared.requests.push(request.clone());
            let mut faults = Vec::new();
            for fault in &mut shared.faults {
                if fault.times > 0 && request.path.contains(fault.at) {
                    fault.times -= 1;
                    faults.push(fault.how.clone());
                }
            }
            let is_whole = faults.iter().any(|how| matches!(how, How::Whole));
            let range = request.range.filter(|_| !is_whole);
            (shared.reply(&Request { range, ..request }), faults)
        };
        if !send(&mut stream, reply, faults) {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, token: None };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { return Some(request) };
        match &*name.to_ascii_lowercase() {
            "range" => request.range = Some(value.into()),
            "authorization" => request.token = Some(value.into()),
            _ => {}
        }
    }
}

/// Sends a reply as the faults have it; whether the connection can be used on.
fn send(stream: &mut TcpStream, mut reply: Reply, faults: Vec<How>) -> bool {
    let (mut drop_after, mut wait) = (usize::MAX, Duration::ZERO);
    let mut further = Vec::new();
    for how in faults {
        match how {
            How::Drop(after) => drop_after = after,
            How::Status(status, headers) => {
                let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
                reply = Reply { status, headers, body: Vec::new() };
            }
            How::Body(body) => reply.body = body,
            How::Header(name, value) => further.push((name, value)),
            How::Slow(each) => wait = each,
            How::Whole => {}
        }
    }
    for (name, value) in further {
        reply.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        reply.headers.push((name.into(), value));
    }
    let mut head = format!("HTTP/1.1 {} Reason\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        write!(head, "Content-Length: {}\r\n", reply.body.len()).unwrap();
    }
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    head += "\r\n";
    let body = &reply.body[..reply.body.len().min(drop_after)];
    let mut sent = stream.write_all(head.as_bytes()).is_ok();
    for piece in body.chunks(4096) {
        sent = sent && stream.write_all(piece).is_ok();
        thread::sleep(wait);
    }
    sent && drop_after == usize::MAX
}

impl Shared {
    fn reply(&self, request: &Request) -> Reply {
        if let Some(path) = request.path.strip_prefix("files:/") {
            let is_it = |bytes: &&Vec<u8>| hash(bytes) == path;
            let bytes = self.repositories.iter().flat_map(|repository| repository.files.values()).find(is_it);
            return bytes.map_or_else(|| error(404, "", ""), |bytes| ranged(bytes, request));
        }
        let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        for repository in &self.repositories {
            let api = format!("api/{}/{}/revision/", repository.kind, repository.name);
            let prefix = if repository.kind == "datasets" { "datasets/" } else { "" };
            let resolve = format!("{prefix}{}/resolve/", repository.name);
            if let Some(revision) = path.strip_prefix(&*api) {
                return repository.admits(request).unwrap_or_else(|| repository.listing(&revision.replace("%2F", "/")));
            }
            if let Some(file) = path.strip_prefix(&*resolve) {
                return repository.admits(request).unwrap_or_else(|| self.file(repository, file, request));
            }
        }
        // As the real one says to those without a token.
        match request.token {
            None => error(401, "", "Invalid username or password."),
            Some(_) => error(404, "RepoNotFound", "Repository not found"),
        }
    }

    fn file(&self, repository: &Repository, path: &str, request: &Request) -> Reply {
        let (revision, file) = path.split_once('/').unwrap_or_default();
        let Some(commit) = repository.commit(revision) else { return no_revision(revision) };
        let file = file.replace("%20", " ");
        let Some(bytes) = repository.files.get(&file) else {
            return error(404, "EntryNotFound", "Entry not found");
        };
        let digest = hash(bytes);
        let mut headers = vec![("X-Repo-Commit".to_owned(), commit.to_owned())];
        if is_large(&file) {
            headers.push(("X-Linked-Etag".into(), format!("\"{digest}\"")));
            headers.push(("X-Linked-Size".into(), bytes.len().to_string()));
            headers.push(("Location".into(), format!("{}/{digest}", self.files)));
            return Reply { status: 302, headers, body: b"Found".to_vec() };
        }
        headers.push(("ETag".into(), format!("\"{}\"", &digest[..40])));
        let mut reply = ranged(bytes, request);
        reply.headers.extend(headers);
        reply
    }
}

impl Repository {
    fn admits(&self, request: &Request) -> Option<Reply> {
        let has_token = request.token.as_deref() == Some(&format!("Bearer {TOKEN}"));
        match self.gate {
            Gate::Private if !has_token => Some(error(401, "RepoNotFound", "Invalid username or password.")),
            Gate::Gated if !has_token => {
                let reason =
                    format!("Access to model {} is restricted. You must be authenticated to access it.", self.name);
                Some(error(401, "GatedRepo", &reason))
            }
            _ => None,
        }
    }

    fn commit(&self, revision: &str) -> Option<&str> {
        let named = self.commits.get(revision).or_else(|| self.commits.values().find(|commit| *commit == revision));
        named.map(String::as_str)
    }

    fn listing(&self, revision: &str) -> Reply {
        let Some(commit) = self.commit(revision) else { return no_revision(revision) };
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let digest = hash(bytes);
            let mut sibling = json!({"rfilename": name, "size": bytes.len(), "blobId": &digest[..40]});
            if is_large(name) {
                sibling["lfs"] = json!({"sha256": digest, "size": bytes.len(), "pointerSize": 134});
            }
            sibling
        };
        let siblings: Vec<Value> = self.files.iter().map(sibling).chain(self.listed.iter().cloned()).collect();
        let body = json!({"id": self.name, "sha": commit, "private": false, "siblings": siblings});
        Reply {
            status: 200,
            headers: vec![("X-Repo-Commit".into(), commit.into())],
            body: body.to_string().into_bytes(),
        }
    }
}

fn no_revision(revision: &str) -> Reply {
    error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let mut headers = Vec::new();
    if !code.is_empty() {
        headers.push(("X-Error-Code".to_owned(), code.to_owned()));
        headers.push(("X-Error-Message".to_owned(), message.to_owned()));
    }
    Reply { status, headers, body: json!({"error": message}).to_string().into_bytes() }
}

fn ranged(bytes: &[u8], request: &Request) -> Reply {
    let from = request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        None => Reply { status: 200, headers: Vec::new(), body: bytes.to_vec() },
        Some(from) if from < bytes.len() => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            Reply { status: 206, headers: vec![("Content-Range".into(), range)], body: bytes[from..].to_vec() }
        }
        Some(_) => Reply { status: 416, headers: Vec::new(), body: Vec::new() },
    }
}
