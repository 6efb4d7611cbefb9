//! Runs the command as a user does.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The command, for which there is no hub.
pub(crate) fn directrix() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_directrix"));
    command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", "no/such/cache");
    command
}

pub(crate) fn fixture(name: &str) -> String {
    format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn run(args: &[&str]) -> Output {
    directrix().args(args).output().unwrap()
}

/// Runs a command that must succeed; gives its stdout.
pub(crate) fn done(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn json(args: &[&str]) -> Value {
    serde_json::from_str(&done(&[args, &["--json"]].concat())).unwrap()
}

/// Runs a command that must fail with one message on stderr, which is given.
pub(crate) fn failed(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    assert_eq!(message.lines().filter(|line| line.starts_with("error:")).count(), 1, "{message}");
    assert!(!message.contains("panicked") && !message.contains("fault of its own"), "{message}");
    message
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Everything in a folder: paths and bytes. What tells the time is left out.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for path in fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if !name.ends_with("manifest.json") && !name.contains("tfevents") {
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Numbers that look random and are the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

pub(crate) fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// A temporary folder.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in the folder, for a flag.
    pub(crate) fn at(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().into()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.0.path().join(name), content).unwrap();
        self.at(name)
    }

    /// The names of what is in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A copy of a fixture's model, to be damaged.
    pub(crate) fn model(&self, fixture_name: &str) -> String {
        let (from, to) = (PathBuf::from(fixture(fixture_name)), self.path().join("model"));
        fs::create_dir(&to).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
        to.to_str().unwrap().into()
    }

    /// A corpus of ready ids: prompts of 5 to 64 tokens, longer ones towards its end.
    pub(crate) fn ids(&self, name: &str, prompts: usize, vocabulary: usize) -> String {
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut lines = String::new();
        for prompt in 0..prompts {
            let length = 5 + next(1 + 60 * prompt / prompts);
            let tokens: Vec<usize> = (0..length).map(|_| next(vocabulary)).collect();
            writeln!(lines, "{{\"tokens\": {tokens:?}}}").unwrap();
        }
        self.write(name, lines)
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Served {
    pub(crate) process: Child,
    address: String,
}

impl Served {
    /// Serves with these flags at a free port.
    pub(crate) fn start(args: &[&str]) -> Served {
        let mut command = directrix();
        command.args([&["serve", "--port", "0"], args].concat()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        Served { process, address }
    }

    /// The answer to a request, head and body.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (host, length) = (&self.address, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}"
        );
        write!(stream, "{head}\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.ask("GET", path, "")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
