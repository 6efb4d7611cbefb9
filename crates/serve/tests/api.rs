//! The server from outside: what it answers, and what it does with what nobody should ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use directrix_circuits::edges::keep;
use directrix_corpus::Watch;
use directrix_index::{Index, Options};
use directrix_lab::{Opened, OtherIndex, Sources, Wanted, saes_of};
use directrix_serve::{Error, Server, Workbench};
use serde_json::{Value, json};

const JSON: &str = "Content-Type: application/json\r\n";

/// An index of some of the shipped stories, made once.
fn index() -> &'static Path {
    static INDEX: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = INDEX.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let wanted = Wanted::default();
        let opened = Wanted { saes: saes_of(&wanted.model), limit: Some(60), ..wanted }.open().unwrap();
        opened.index(&path, Options::default(), OtherIndex::Keep, &Watch::nobody()).unwrap();
        (folder, path)
    });
    path
}

/// A server of it, which lasts as long as the test.
fn served(change: impl FnOnce(Workbench) -> Workbench, token: Option<&str>) -> SocketAddr {
    let bench = change(Workbench::of_index(index(), &Sources::default()).unwrap());
    let server = Server::listen(bench, ([127, 0, 0, 1], 0).into(), token.map(String::from)).unwrap();
    let address = server.url().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    std::thread::spawn(move || server.run(&Watch::nobody()));
    address
}

fn plain() -> SocketAddr {
    static SERVED: OnceLock<SocketAddr> = OnceLock::new();
    *SERVED.get_or_init(|| served(|bench| bench, None))
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends bytes as they are, and reads all that comes.
fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // What is refused early is not read to its end.
    drop(stream.write_all(bytes));
    let mut all = Vec::new();
    drop(stream.read_to_end(&mut all));
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(all.len());
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut body = all.get(end + 4..).unwrap_or_default().to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = dechunked(&body);
    }
    Answer { status: head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), head, body }
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let length = usize::from_str_radix(str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            break;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + length]);
        rest = &rest[line + 4 + length..];
    }
    body
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    send(address, &[head.as_bytes(), body].concat())
}

fn get(path: &str) -> Answer {
    ask(plain(), "GET", path, "", b"")
}

fn post(path: &str, body: &Value) -> Answer {
    ask(plain(), "POST", path, JSON, body.to_string().as_bytes())
}

#[test]
fn everything_that_is_described_is_answered() {
    let text = "Tim said, \"I like it.\"";
    let info = get("/api/info").json();
    assert_eq!(info["saes"][1]["name"], "sae-l1");
    let columns = get("/api/saes/1/directions").json();
    let maxima: Vec<f64> = columns["maximum"].as_array().unwrap().iter().map(|m| m.as_f64().unwrap()).collect();
    let direction = (0..maxima.len()).max_by(|a, b| maxima[*a].total_cmp(&maxima[*b])).unwrap();
    let panel = get(&format!("/api/saes/1/directions/{direction}")).json();
    assert_eq!(panel["maximum"].as_f64().unwrap(), maxima[direction]);
    let example = &panel["examples"][0];
    let (prompt, position) = (example["prompt"].as_u64().unwrap(), example["position"].as_u64().unwrap());
    let at = position - example["start"].as_u64().unwrap();
    assert_eq!(example["values"][at as usize], example["activation"]);
    let change = format!("sae-l1/{direction}*0");

    let description = get("/openapi.json").json();
    let mut tried = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        if path.contains("/notes") {
            continue;
        }
        let path = path.replace("{sae}", "1").replace("{direction}", &direction.to_string());
        let path = path.replace("{prompt}", &prompt.to_string());
        for method in methods.as_object().unwrap().keys() {
            let query = match path.rsplit('/').next().unwrap() {
                "edges" => "?way=up&measure=cosine".into(),
                "attribution" if method == "get" => format!("?prompt={prompt}&position={position}"),
                "mean" => "?layer=0&head=1".into(),
                "directions" if path.contains("search") => "?find=said&kind=text".into(),
                "positions" => format!("?query=sae-l1/{direction}%20%26%20!%22xyz%22"),
                _ if path.starts_with("/api/prompts/") => format!("?sae=1&direction={direction}"),
                _ => String::new(),
            };
            let body = match path.as_str() {
                "/api/prompt" | "/api/graph" => json!({ "text": text }),
                "/api/attention" => json!({ "text": text, "layer": 1, "head": 0 }),
                "/api/attribution" => json!({ "text": text, "position": 3 }),
                "/api/generate" => json!({ "text": text, "changes": [change], "tokens": 3, "temperature": 0.0 }),
                "/api/edges/check" => json!({ "from": [0, 1], "to": [1, direction] }),
                path if path.ends_with("/effects") => json!({ "directions": [direction] }),
                _ => json!({ "text": text, "changes": [change] }),
            };
            let body = if method == "get" { Vec::new() } else { body.to_string().into_bytes() };
            let found = ask(plain(), &method.to_uppercase(), &(path.clone() + &query), JSON, &body);
            // Two directions that never fire together have no edge to check.
            let is_honest =
                path == "/api/edges/check" && found.status == 404 && found.error().contains("fire together");
            let said = String::from_utf8_lossy(&found.body);
            assert!(found.status == 200 || is_honest, "{method} {path}{query}: {} {said}", found.status);
            tried += 1;
        }
    }
    assert!(tried >= 18, "{tried}");
}

#[test]
fn an_intervention_says_what_running_the_model_says() {
    let text = "Tim said, \"I like it.\" Then he ran to the park";
    let same = post("/api/intervene", &json!({ "text": text })).json();
    assert_eq!(same["mean_loss"][0], same["mean_loss"][1]);
    let view = post("/api/prompt", &json!({ "text": text })).json();
    assert_eq!(view["losses"], same["losses"][0]);
    let active = &view["active"][1][5];
    let direction = active["directions"][0].as_u64().unwrap();
    let wanted = json!({ "text": text, "changes": [format!("sae-l1/{direction}*0@5")], "controls": true });
    let changed = post("/api/intervene", &wanted).json();
    let losses = |which: usize| changed["losses"][which].as_array().unwrap().clone();
    assert_eq!(losses(0)[..6], losses(1)[..6], "nothing before the change is changed");
    assert_ne!(losses(0)[6], losses(1)[6]);
    let own = changed["directions"].as_array().unwrap().iter().find(|of| of["direction"] == direction).unwrap();
    assert_eq!((own["after"].as_f64(), &own["before"]), (Some(0.0), &active["values"][0]));
    for control in changed["controls"].as_array().unwrap() {
        assert_eq!(control["mean_loss"].as_array().unwrap().len(), 8);
    }
}

#[test]
fn what_is_not_there_or_cannot_be_is_said() {
    let text = "Once upon a time";
    let long = "a ".repeat(3000);
    let of_text = |more: Value| {
        let mut body = json!({ "text": text });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (status, found, said) in [
        (404, get("/api/saes/9/directions"), "no SAE 9"),
        (404, get("/api/saes/1/directions/999999"), "no direction 999999"),
        (404, get("/api/saes/x/directions"), "x"),
        (404, get("/api/prompts/99999?sae=0&direction=1"), "99999"),
        (400, get("/api/saes/1/directions/3/edges?way=sideways&measure=cosine"), "sideways"),
        (400, get("/api/saes/1/directions/3/edges"), "way"),
        (404, get("/api/nothing"), "/openapi.json"),
        (404, get("/x.js"), "there is nothing"),
        (400, get("/api/search/directions?find=&kind=text"), "text"),
        (400, get("/api/search/directions?find=(&kind=regex"), "unclosed group"),
        (400, get("/api/search/positions?query=sae-l1/999999"), "999999"),
        (400, get("/api/search/positions?query=sae-l1/3%20%26"), "end"),
        (400, post("/api/prompt", &json!({ "text": "" })), "empty"),
        (400, post("/api/prompt", &json!({ "text": long })), "longer than the model's context"),
        (400, post("/api/prompt", &json!({})), "either"),
        (422, post("/api/prompt", &json!({ "text": 3 })), "text"),
        (400, post("/api/intervene", &of_text(json!({ "changes": ["sae-l1/3"] }))), "`*0`"),
        (400, post("/api/intervene", &of_text(json!({ "changes": ["sae-l1/3*0@99"] }))), "positions 0 to"),
        (400, post("/api/intervene", &of_text(json!({ "changes": vec!["sae-l1/3*0"; 65] }))), "65 changes"),
        (400, post("/api/intervene", &of_text(json!({ "position": 99 }))), "no position 99"),
        (400, post("/api/generate", &of_text(json!({ "tokens": 100_000, "temperature": 1.0 }))), "from 1 to 200"),
        (400, post("/api/generate", &of_text(json!({ "tokens": 5, "temperature": -1.0 }))), "temperature"),
        (404, post("/api/attention", &of_text(json!({ "layer": 7, "head": 0 }))), "L7H0"),
        (400, post("/api/attribution", &of_text(json!({ "position": 2, "token": "several words here" }))), "token"),
        (400, post("/api/edges/check", &json!({ "from": [1, 3], "to": [0, 3] })), "earlier SAE first"),
        (404, post("/api/saes/1/effects", &json!({ "directions": [999_999] })), "999999"),
    ] {
        let answer = found.error();
        let is_said = found.status == status && answer.contains(said);
        assert!(is_said, "{} {answer} where {status} {said} was wanted", found.status);
    }
}

#[test]
fn malformed_requests_are_refused_and_the_server_goes_on() {
    let address = plain();
    for (status, body, headers) in [
        (400, b"{\"text\": ".to_vec(), JSON),
        (400, b"{\"text\": \"\xff\xfe\"}".to_vec(), JSON),
        (415, b"{}".to_vec(), ""),
        (413, vec![b' '; 1 << 20], JSON),
    ] {
        let found = ask(address, "POST", "/api/prompt", headers, &body);
        assert_eq!(found.status, status, "{}", found.head);
        assert!(!found.error().is_empty());
    }
    // A hundred megabytes are announced; nobody waits for them.
    let announced = format!("POST /api/prompt HTTP/1.1\r\nHost: {address}\r\n{JSON}Content-Length: 104857600\r\n\r\n");
    let start = Instant::now();
    assert_eq!(send(address, announced.as_bytes()).status, 413);
    assert!(start.elapsed() < Duration::from_secs(10));
    for bytes in [&b"\x16\x03\x01\x02\x00\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n"] {
        assert!([0, 400, 421].contains(&send(address, bytes).status));
    }
    assert_eq!(get("/api/info").status, 200);
}

#[test]
fn only_the_servers_own_pages_may_ask() {
    let address = plain();
    let with = |headers: String| ask(address, "GET", "/api/info", &headers, b"").status;
    assert_eq!(with(format!("Host: localhost:{}\r\n", address.port())), 200);
    assert_eq!(with(format!("Host: evil.example:{}\r\n", address.port())), 421);
    assert_eq!(with("Host: 127.0.0.1:1\r\n".into()), 421);
    assert_eq!(with(format!("Origin: http://{address}\r\n")), 200);
    assert_eq!(with("Origin: http://evil.example\r\n".into()), 403);
    assert_eq!(with("Origin: null\r\n".into()), 403);
    let page = get("/");
    assert!(page.head.contains("content-security-policy: default-src 'self'") && page.head.contains("nosniff"));
    for view in ["/circuits?sae=sae-l1", "/notes"] {
        assert_eq!(get(view).body, page.body);
    }
    let tag = page.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert_eq!(ask(address, "GET", "/", &format!("If-None-Match: {tag}\r\n"), b"").status, 304);
    for asset in ["/assets/index.js", "/assets/index.css", "/look.css", "/look.js", "/plotly.js"] {
        assert_eq!(get(asset).status, 200, "{asset}");
    }
}

#[test]
fn a_token_is_asked_for_where_there_is_one() {
    let bench = Workbench::of_index(index(), &Sources::default()).unwrap();
    let open = Server::listen(bench, ([0, 0, 0, 0], 0).into(), None);
    assert!(matches!(open, Err(Error::NoToken { .. })));
    let address = served(|bench| bench, Some("abc-12345678"));
    let with = |headers: &str, path: &str| ask(address, "GET", path, headers, b"");
    assert_eq!(with("", "/api/info").status, 401);
    assert_eq!(with("", "/").status, 401);
    assert_eq!(with("Authorization: Bearer abc-12345679\r\n", "/api/info").status, 401);
    assert_eq!(with("Authorization: Bearer abc-12345678\r\n", "/api/info").status, 200);
    let link = with("", "/circuits?sae=sae-l1&token=abc-12345678&way=up");
    assert!(link.head.contains("location: /circuits?sae=sae-l1&way=up"), "{}", link.head);
    assert!(link.status == 303 && link.head.contains("HttpOnly; SameSite=Strict"), "{}", link.head);
    assert_eq!(with("Cookie: a=b; directrix=abc-12345678\r\n", "/api/info").status, 200);
}

#[test]
fn notes_are_kept_and_never_overwritten_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.sqlite");
    let address = served(|bench| bench.with_notes(&file, true).unwrap(), None);
    let put = |body: Value| ask(address, "PUT", "/api/notes/1/42", JSON, body.to_string().as_bytes());
    let first = put(json!({ "label": "<script>alert(1)</script>", "starred": true })).json();
    assert_eq!(first["version"], 1);
    let late = put(json!({ "label": "other" }));
    assert_eq!((late.status, &late.json()["instead"]["label"]), (409, &first["label"]));
    assert_eq!(put(json!({ "label": "other", "version": 1 })).json()["version"], 2);
    assert_eq!(put(json!({ "label": "x".repeat(501), "version": 2 })).status, 400);
    // A second server of the same file, as of a second page of another process.
    let other = served(|bench| bench.with_notes(&file, true).unwrap(), None);
    assert_eq!(ask(other, "GET", "/api/notes", "", b"").json()[0]["label"], "other");

    let exported = ask(address, "GET", "/api/notes.jsonl", "", b"").body;
    let more = b"{\"sae\":\"sae-l0\",\"direction\":7,\"label\":\"seven\"}\nnot a note\n";
    let imported = ask(address, "POST", "/api/notes.jsonl", "", &[&exported[..], more].concat()).json();
    assert_eq!((&imported["imported"], &imported["skipped"][0]["line"]), (&json!(2), &json!(3)));
    assert_eq!(ask(address, "DELETE", "/api/notes/1/42", "", b"").status, 204);
    assert_eq!(ask(address, "DELETE", "/api/notes/1/42", "", b"").status, 404);
    assert_eq!(ask(address, "GET", "/api/notes", "", b"").json().as_array().unwrap().len(), 1);
    // Without --edit they are read.
    let reads = served(|bench| bench.with_notes(&file, false).unwrap(), None);
    assert_eq!(ask(reads, "GET", "/api/notes", "", b"").json()[0]["label"], "seven");
    assert_eq!(ask(reads, "PUT", "/api/notes/1/42", JSON, b"{}").status, 403);
    assert_eq!(ask(plain(), "PUT", "/api/notes/1/42", JSON, b"{}").status, 403);
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "this is no database, nor was it ever one").unwrap();
    let bench = Workbench::of_index(index(), &Sources::default()).unwrap().with_notes(&broken, true);
    assert!(matches!(bench, Err(Error::Notes { .. })));
}

#[test]
fn reports_are_served_and_nothing_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let study = folder.path().join("out/my study");
    std::fs::create_dir_all(study.join("tables")).unwrap();
    std::fs::write(folder.path().join("secret.csv"), "hush").unwrap();
    std::fs::write(folder.path().join("out/secret.csv"), "hush").unwrap();
    std::fs::write(study.join("report.html"), "<script>alert(1)</script>").unwrap();
    std::fs::write(study.join("study.json"), "{}").unwrap();
    std::fs::write(study.join("tables/a.csv"), "a,b\n").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path().join("secret.csv"), study.join("tables/link.csv")).unwrap();
    let address = served(|bench| bench.with_studies(folder.path().join("out")), None);
    let get = |path: &str| ask(address, "GET", path, "", b"");
    let listed = get("/api/studies").json();
    assert_eq!(listed[0]["report"], "/studies/my%20study/report.html");
    let report = get("/studies/my%20study/report.html");
    assert!(report.status == 200 && report.head.contains("sandbox allow-scripts"), "{}", report.head);
    assert_eq!(get(listed[0]["tables"][0].as_str().unwrap()).body, b"a,b\n");
    for path in [
        "/studies/../secret.csv",
        "/studies/my%20study/../../secret.csv",
        "/studies/my%20study/%2e%2e/secret.csv",
        "/studies/..%2f..%2fsecret.csv",
        "/studies/my%20study/tables/..%2f..%2f..%2fsecret.csv",
        "/studies//etc/passwd",
        "/studies/my%20study/study.json",
        "/studies/my%20study/tables/link.csv",
        "/studies/my%20study/tables/%00.csv",
    ] {
        let found = get(path);
        let is_told = found.body.windows(4).any(|w| w == b"hush");
        assert!(!is_told && found.status >= 400, "{path}: {}", found.status);
    }
}

#[test]
fn many_clients_and_slow_ones_are_answered() {
    let address = plain();
    // Clients that say nothing take no one's place.
    let idle: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /api/info HTT").unwrap();
    let wrong = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..200 {
            let wrong = &wrong;
            scope.spawn(move || {
                let found = if client % 2 == 0 {
                    get(&format!("/api/saes/1/directions/{client}"))
                } else {
                    let changes = [format!("sae-l1/{client}*0")];
                    post("/api/intervene", &json!({ "text": "Once upon a time", "changes": changes }))
                };
                if found.status != 200 {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    slow.write_all(format!("P/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"));
    drop(idle);
}

#[test]
fn what_is_looked_at_is_answered_beside_what_is_long_and_that_ends_with_its_client() {
    let address = served(|bench| bench, None);
    // All of these effects would take minutes.
    let body = json!({ "directions": (0..1500).collect::<Vec<_>>() }).to_string();
    let asks = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head =
            format!("POST /api/saes/1/effects HTTP/1.1\r\nHost: {address}\r\n{JSON}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 200]).unwrap();
        stream
    };
    let streams = [asks(), asks(), asks(), asks()];
    let get = |path: &str| ask(address, "GET", path, "", b"").status;
    assert_eq!(get("/api/saes/1/directions/5"), 200);
    drop(streams);
    assert_eq!(get("/api/attention/mean?layer=0&head=0"), 200);
}

/// An index of a tiny model, of prompts of random tokens, and what is open of it.
fn tiny(folder: &Path) -> (Opened, Index, PathBuf) {
    let fixture = |name: &str| format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut state = 1_u64;
    let mut token = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % 60
    };
    let rows = (0..60).map(|_| json!({ "tokens": (0..24).map(|_| token()).collect::<Vec<_>>() }).to_string() + "\n");
    let corpus = folder.join("ids.jsonl");
    std::fs::write(&corpus, rows.collect::<String>()).unwrap();
    let wanted = Wanted {
        model: fixture("gpt2-tiny"),
        saes: ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}"))).into(),
        corpus: corpus.display().to_string(),
        ..Wanted::default()
    };
    let (opened, path) = (wanted.open().unwrap(), folder.join("index"));
    let index = opened.index(&path, Options::default(), OtherIndex::Keep, &Watch::nobody()).unwrap();
    (opened, index, path)
}

#[test]
fn edges_are_measured_until_they_are_kept_and_are_the_same_then() {
    let folder = tempfile::tempdir().unwrap();
    let (opened, index, path) = tiny(folder.path());
    let serve = || {
        let bench = Workbench::of_index(&path, &Sources::default()).unwrap();
        let server = Server::listen(bench, ([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = server.url().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
        std::thread::spawn(move || server.run(&Watch::nobody()));
        address
    };
    let edges = |address: SocketAddr, way: &str, measure: &str| -> Vec<Value> {
        let sae = usize::from(way == "up");
        let answer = |direction: usize| {
            let path = format!("/api/saes/{sae}/directions/{direction}/edges?way={way}&measure={measure}");
            let found = ask(address, "GET", &path, "", b"");
            assert_eq!(found.status, 200, "{}", found.error());
            found.json()
        };
        (0..12).map(answer).collect()
    };
    let is_kept = |address| ask(address, "GET", "/api/info", "", b"").json()["index"]["edges"].as_bool().unwrap();
    let said = |answers: &[Value]| answers[0]["measured"].as_str().unwrap_or_default().to_owned();

    let address = serve();
    assert!(!is_kept(address));
    let ways = [("down", "causal"), ("up", "attribution")];
    let before = ways.map(|(way, measure)| edges(address, way, measure));
    assert!(before.iter().flatten().any(|answer| answer["edges"].as_array().unwrap().len() > 5));
    let how = format!("`directrix index --edges --out {}`", path.display());
    assert!(before.iter().all(|answers| said(answers).contains(&how)), "{}", said(&before[0]));

    // As soon as they are there, without a start.
    keep(&opened.model, &opened.saes, &index, &path, &Watch::nobody()).unwrap();
    assert!(is_kept(address));
    for ((way, measure), before) in ways.into_iter().zip(&before) {
        let after = edges(address, way, measure);
        assert_eq!(said(&after), "");
        for (one, other) in before.iter().zip(&after) {
            assert_eq!(one["edges"], other["edges"], "{way} {measure}");
        }
    }
    // What was measured of a few is kept of all, and every edge is told of at both of its ends.
    let (down, up) = (edges(address, "down", "causal"), edges(address, "up", "causal"));
    assert!(up.iter().all(|answer| !answer["about"].as_str().unwrap().contains("largest")));
    let mut both = 0;
    for (to, answer) in up.iter().enumerate() {
        for edge in answer["edges"].as_array().unwrap() {
            let from = edge["direction"].as_u64().unwrap() as usize;
            let there =
                down.get(from).and_then(|of| of["edges"].as_array().unwrap().iter().find(|e| e["direction"] == to));
            if let Some(there) = there {
                assert_eq!((&there["value"], &there["n"]), (&edge["value"], &edge["n"]));
                both += 1;
            }
        }
    }
    assert!(both > 5, "{both}");

    // What is damaged is said to be, and measured.
    let file = path.join("edges/0-1.causal");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let again = serve();
    let found = edges(again, "down", "causal");
    assert!(said(&found).contains("damaged") && said(&found).contains("0-1.causal"), "{}", said(&found));
    assert_eq!(found[0]["edges"], before[0][0]["edges"]);
}
