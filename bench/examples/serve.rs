//! Clients of a server: many that read, one that intervenes. Prints latencies.
//!
//!     directrix serve &
//!     cargo run --release -p directrix-bench --example serve -- --clients 50 --seconds 20

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Load {
    /// Address of the server
    #[arg(default_value = "127.0.0.1:7171")]
    address: String,
    /// Clients that read directions, one request after another
    #[arg(long, default_value_t = 50)]
    clients: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Milliseconds that a reader looks at what it got
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Prompt of the corpus whose first tokens are intervened on
    #[arg(long, default_value_t = 0)]
    prompt: usize,
    #[arg(long, default_value_t = 100)]
    tokens: usize,
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>, String);

impl Client {
    fn new(address: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream), address.into()))
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let (host, length) = (&self.1, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let text = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(n) = text.strip_prefix("content-length: ") {
                length = n.parse().map_err(io::Error::other)?;
            } else if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, body))
    }
}

fn main() -> io::Result<()> {
    let load = Load::parse();
    let mut first = Client::new(&load.address)?;
    let info: Value = serde_json::from_slice(&first.ask("GET", "/api/info", "")?.1)?;
    let saes: Vec<(String, u64)> = info["saes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|sae| (sae["name"].as_str().unwrap_or_default().into(), sae["directions"].as_u64().unwrap_or(1)))
        .collect();
    let last = saes.len() - 1;
    let prompt = first.ask("GET", &format!("/api/prompts/{}?sae=0&direction=0", load.prompt), "")?.1;
    let prompt: Value = serde_json::from_slice(&prompt)?;
    let texts = prompt["texts"].as_array().into_iter().flatten().skip(1).take(load.tokens - 1);
    let text: String = texts.filter_map(Value::as_str).collect();

    // What is ablated fires in the text.
    let view = first.ask("POST", "/api/prompt", &json!({ "text": text }).to_string())?.1;
    let view: Value = serde_json::from_slice(&view)?;
    let fire = view["active"][last].as_array().into_iter().flatten();
    let fire = fire.flat_map(|at| at["directions"].as_array().into_iter().flatten().filter_map(Value::as_u64));
    let mut fire: Vec<u64> = fire.collect();
    fire.sort_unstable();
    fire.dedup();

    let end = Instant::now() + Duration::from_secs(load.seconds);
    let reads: Vec<_> = (0..load.clients as u64)
        .map(|client| {
            let (address, saes, pause) = (load.address.clone(), saes.clone(), load.pause);
            thread::spawn(move || -> io::Result<(Vec<f64>, usize)> {
                let (mut client_of, mut times, mut errors, mut seed) = (Client::new(&address)?, Vec::new(), 0, client);
                while Instant::now() < end {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let sae = (seed >> 60) as usize % saes.len();
                    let path = format!("/api/saes/{sae}/directions/{}", (seed >> 33) % saes[sae].1);
                    let start = Instant::now();
                    let (status, _) = client_of.ask("GET", &path, "")?;
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                    errors += usize::from(status != 200);
                    thread::sleep(Duration::from_millis(pause));
                }
                Ok((times, errors))
            })
        })
        .collect();

    let (mut seen, mut inside, mut number) = (Vec::new(), Vec::new(), 0);
    while Instant::now() < end {
        // Another direction every time.
        let change = format!("{}/{}*0", saes[last].0, fire[number % fire.len()]);
        number += 1;
        let body = json!({ "text": text, "changes": [change] }).to_string();
        let start = Instant::now();
        let (status, answer) = first.ask("POST", "/api/intervene", &body)?;
        seen.push(start.elapsed().as_secs_f64() * 1e3);
        let answer: Value = serde_json::from_slice(&answer)?;
        inside.extend(answer["took_ms"].as_f64());
        if status != 200 {
            eprintln!("{status}: {answer}");
        }
        if number == 1 {
            println!("intervening on {} tokens", answer["texts"].as_array().map_or(0, Vec::len));
        }
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    for read in reads {
        let (own, wrong) = read.join().map_err(|_| io::Error::other("a client gave up"))??;
        times.extend(own);
        errors += wrong;
    }
    let per_second = times.len() as f64 / load.seconds as f64;
    println!("{} clients read: {per_second:.0} answers/s, {errors} errors, {}", load.clients, shown(times));
    println!("interventions, as the client sees them: {}", shown(seen));
    println!("interventions, in the server: {}", shown(inside));
    Ok(())
}

fn shown(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    if times.is_empty() {
        return "none".into();
    }
    format!("n {}, median {:.2} ms, 99 % {:.2} ms, most {:.2} ms", times.len(), at(0.5), at(0.99), at(1.0))
}
