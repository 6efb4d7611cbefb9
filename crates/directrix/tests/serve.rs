//! `directrix serve` as a process: how it begins, ends, and what it keeps.

mod common;

use common::{Folder, Served, done, failed};

fn index(folder: &Folder) -> String {
    let index = folder.path().join("index").to_str().unwrap().to_owned();
    done(&["index", "--limit", "20", "--out", &index]);
    index
}

#[test]
fn a_note_outlives_a_killed_server() {
    let folder = Folder::new();
    let index = index(&folder);
    let args = ["--index", &index, "--edit"];
    for version in 0..3 {
        let mut server = Served::start(&args);
        let label = format!("label {version}");
        let body = format!("{{\"label\": \"{label}\", \"version\": {version}}}");
        let answer = server.ask("PUT", "/api/notes/1/42", &body);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&label), "{answer}");
        server.process.kill().unwrap();
        server.process.wait().unwrap();
        let again = Served::start(&["--index", &index]);
        assert!(again.get("/api/notes").contains(&label));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_it_well() {
    let folder = Folder::new();
    let index = index(&folder);
    let mut server = Served::start(&["--index", &index]);
    assert!(server.get("/api/info").starts_with("HTTP/1.1 200"));
    // SAFETY: sends a signal to a process of this test.
    unsafe { libc::kill(server.process.id() as i32, libc::SIGINT) };
    assert!(server.process.wait().unwrap().success());
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = Folder::new();
    let nothing = folder.path().join("nothing").to_str().unwrap().to_owned();
    assert!(failed(1, &["serve", "--index", &nothing]).contains("directrix index"));
    let index = index(&folder);
    let open = failed(1, &["serve", "--index", &index, "--bind", "0.0.0.0", "--port", "0"]);
    assert!(open.contains("give --token"), "{open}");
    failed(2, &["serve", "--token", "short"]);
    failed(2, &["serve", "--port", "99999"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let busy = failed(1, &["serve", "--index", &index, "--port", &port]);
    assert!(busy.contains("cannot listen at") && busy.contains("--port"), "{busy}");
    std::fs::write(folder.path().join("index/notes.sqlite"), "no database").unwrap();
    assert!(failed(1, &["serve", "--index", &index, "--edit", "--port", "0"]).contains("cannot open the notes"));
}
