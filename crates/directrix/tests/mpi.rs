//! Ranks of an MPI job: what they make together has the bits of one process, whatever their number and whoever is killed.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use common::{Folder, Random, directrix, done, files, fixture, strings, text};
use serde_json::Value;

/// So many ranks of a command on this machine.
fn ranks(n: usize) -> Command {
    let mut command = Command::new("mpirun");
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env("RAYON_NUM_THREADS", "1");
    command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", "no/such/cache");
    command.args(["--oversubscribe", "-n", &n.to_string(), env!("CARGO_BIN_EXE_directrix")]);
    command
}

fn start(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("mpirun is of Open MPI (Debian: openmpi-bin)");
    let mpirun = child.id();
    spawn(move || end_where_it_hangs(mpirun));
    child
}

/// Where ranks were killed, mpirun of Open MPI 4.1 at times waits for ever for a lock of PMIx as it ends, when all its processes are gone.
fn end_where_it_hangs(mpirun: u32) {
    let mut left = None;
    while let Ok(threads) = fs::read_dir(format!("/proc/{mpirun}/task")) {
        let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        if threads.flatten().any(|thread| !of(thread).trim().is_empty()) {
            left = Some(Instant::now());
        } else if left.is_some_and(|left| left.elapsed() > Duration::from_secs(10)) {
            drop(Command::new("kill").args(["-9", &mpirun.to_string()]).status());
            return;
        }
        sleep(Duration::from_millis(50));
    }
}

fn output(mut command: Command) -> Output {
    start(&mut command).wait_with_output().unwrap()
}

fn done_by(n: usize, args: &[String]) -> String {
    let mut command = ranks(n);
    command.args(args);
    let output = output(command);
    assert!(output.status.success(), "{n} ranks, {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What tells the time is all that may differ.
fn assert_same(found: &str, expected: &str, what: &str) {
    let (found, expected) = (files(Path::new(found)), files(Path::new(expected)));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in expected {
        assert!(name == "report.html" || found[&name] == bytes, "{what}: {name} differs");
    }
}

/// A corpus of several work units, and the flags of a small model.
fn inputs(folder: &Folder, prompts: usize) -> Vec<String> {
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", prompts, 64));
    let [first, second] = ["sae-l0", "sae-l2"].map(|sae| fixture(&format!("gpt2-tiny/{sae}")));
    strings(&["--model", &model, "--sae", &first, "--sae", &second, "--corpus", &corpus])
}

fn with(args: &[&str], inputs: &[String]) -> Vec<String> {
    [&strings(args)[..], inputs].concat()
}

#[test]
fn an_index_has_the_same_bits_over_any_number_of_ranks() {
    let folder = Folder::new();
    let (inputs, alone) = (inputs(&folder, 9000), folder.at("alone"));
    let said = done(&with(&["index", "--out", &alone], &inputs).iter().map(String::as_str).collect::<Vec<_>>());
    for n in 1..=4 {
        let out = folder.at(&format!("by-{n}"));
        assert_eq!(done_by(n, &with(&["index", "--out", &out], &inputs)).replace(&out, &alone), said);
        assert_same(&out, &alone, &format!("{n} ranks"));
        // Again, it is there.
        done_by(n, &with(&["index", "--out", &out], &inputs));
    }
    assert_eq!(folder.names(), ["alone", "by-1", "by-2", "by-3", "by-4", "ids.jsonl"]);
}

#[test]
fn kept_edges_are_those_of_one_process() {
    let folder = Folder::new();
    let (inputs, alone) = (inputs(&folder, 400), folder.at("alone"));
    let index = |out: &str| with(&["index", "--edges", "--out", out], &inputs);
    assert!(directrix().args(index(&alone)).output().unwrap().status.success());
    for n in 2..=3 {
        let out = folder.at(&format!("by-{n}"));
        done_by(n, &index(&out));
        assert_same(&out, &alone, &format!("{n} ranks"));
    }
}

#[test]
fn verified_edges_and_a_study_are_those_of_one_process() {
    let folder = Folder::new();
    let (inputs, index) = (inputs(&folder, 400), folder.at("index"));
    done_by(2, &with(&["index", "--out", &index], &inputs));
    let verify = |out: &str| {
        let how = ["--by=causal", "--top=30", "--sample-prompts=6", "--least-prompts=2", "--verify-prompts=8"];
        with(&[&["circuits", "verify", "--index", &index, "--out", out], &how[..]].concat(), &inputs[..6])
    };
    let alone = folder.at("alone");
    let expected = done_by(1, &verify(&alone));
    let output = directrix().args(verify(&folder.at("one"))).output().unwrap();
    assert_eq!(text(&output.stdout), expected);
    for n in [2, 3] {
        let out = folder.at(&format!("by-{n}"));
        assert_eq!(done_by(n, &verify(&out)), expected);
        assert_same(&out, &alone, &format!("{n} ranks"));
    }

    let study = include_str!("../../../studies/closing-quote.toml");
    let sections = "[[section]]\nkind = \"single_ablations\"\n[[section]]\nkind = \"joint_ablation\"\n";
    let file = folder.write("study.toml", format!("limit = 200\n{study}\n{sections}"));
    let (alone, out) = (folder.at("study-alone"), folder.at("study"));
    assert!(directrix().args(["study", &file, "--out", &alone]).output().unwrap().status.success());
    let said = done_by(3, &strings(&["study", &file, "--out", &out]));
    assert!(said.ends_with("study/report.html\n") && said.lines().count() == 1, "{said}");
    assert_same(&out, &alone, "a study");
    assert!(
        folder.names().iter().all(|name| !name.contains("units") && !name.contains("pieces")),
        "{:?}",
        folder.names()
    );
}

const EVALUATED: [&str; 1] = ["--evaluate-every=100"];

/// A training of a thousand steps, which often keeps what it has.
fn training(folder: &Folder, out: &str, more: &[&str]) -> Vec<String> {
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("train.jsonl", 60, 64));
    let flags = ["--objective=batch_topk", "--k=8", "--tokens=64000", "--batch=64", "--buffer=512", "--context=16"];
    let often = ["--log-every=10", "--evaluation-prompts=5", "--checkpoint-every=20"];
    let inputs = ["train", "--model", &model, "--corpus", &corpus, "--out", out];
    strings(&[&inputs[..], &flags[..], &often, more].concat())
}

#[test]
fn a_training_has_the_bits_of_one_process_and_goes_on_over_other_ranks() {
    let folder = Folder::new();
    let alone = folder.at("alone");
    assert!(directrix().args(training(&folder, &alone, &EVALUATED)).output().unwrap().status.success());
    let said = done_by(3, &training(&folder, &folder.at("by-3"), &EVALUATED));
    assert!(said.contains("recovered"), "{said}");
    assert_same(&folder.at("by-3"), &alone, "3 ranks");

    let out = folder.at("moved");
    for (kill, n) in [4, 2, 3].into_iter().enumerate() {
        let mut command = ranks(n);
        command.args(training(&folder, &out, &EVALUATED));
        let mut child = start(&mut command);
        let kept = Path::new(&out).join("checkpoint.safetensors");
        let begun = Instant::now();
        let of = |path: &Path| fs::metadata(path).and_then(|of| of.modified()).ok();
        let before = of(&kept);
        while of(&kept) == before && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint");
            sleep(Duration::from_millis(2));
        }
        let there = processes(&out);
        if let Some(victim) = there.get(kill % there.len().max(1)) {
            drop(Command::new("kill").args(["-9", &victim.to_string()]).status());
        }
        assert!(ended(&mut child, Duration::from_secs(30)), "the others go on");
    }
    done_by(2, &training(&folder, &out, &EVALUATED));
    assert_same(&out, &alone, "moved from 4 ranks to 2 to 3 to 2");
}

#[test]
fn directions_that_are_divided_are_trained_as_by_one_process() {
    let folder = Folder::new();
    let split = ["--split=directions"];
    let trained = |n: usize, name: &str| {
        let out = folder.at(name);
        done_by(n, &training(&folder, &out, &split));
        let bytes = fs::read(Path::new(&out).join("sae_weights.safetensors")).unwrap();
        (out, bytes)
    };
    let ((one, alone), (first, divided)) = (trained(1, "one"), trained(3, "first"));
    let (again, _) = trained(3, "again");
    assert_same(&again, &first, "again");
    assert_eq!(files(Path::new(&one)).len(), files(Path::new(&first)).len());
    let numbers = |bytes: &[u8], name: &str| -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        tensors.tensor(name).unwrap().data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    // A thousand steps of Adam, each within 1e-5, drift apart; the SAE is the same.
    let (expected, found) = (numbers(&alone, "W_dec"), numbers(&divided, "W_dec"));
    assert_eq!(found.len(), expected.len());
    let dot: f64 = expected.iter().zip(&found).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let of = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!(dot / (of(&expected) * of(&found)) > 0.99, "{dot}");
}

#[test]
fn a_plan_of_ranks_says_what_their_training_gives_each() {
    let folder = Folder::new();
    let buffer = 1024.0;
    for split in ["positions", "directions"] {
        let out = folder.at(split);
        let flags = ["--split", split, "--objective=topk", "--k=8", "--batch=512", "--buffer=1024", "--tokens=102400"];
        let train =
            [&training(&folder, &out, &flags)[..], &strings(&["--evaluate-every=0", "--checkpoint-every=0"])].concat();
        let planned = done_by(2, &[&train[..], &strings(&["--plan=2", "--json"])].concat());
        let plan = serde_json::from_str::<Value>(&planned).unwrap()["plan"].take();
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{plan:#}"));
        assert!(number(&plan["link"]) > 0.0);
        let over = plan["ranks"].as_array().unwrap().iter().find(|over| over["split"] == split).unwrap();

        let mut command = ranks(2);
        command.args(&train);
        let said = text(&output(command).stderr);
        let found: f64 = said
            .split_once("gave this one ")
            .and_then(|(_, said)| said.split_once(" MB"))
            .and_then(|(number, _)| number.parse().ok())
            .unwrap_or_else(|| panic!("{said}"));
        let about = fs::read_to_string(Path::new(&out).join("cfg.json")).unwrap();
        let d_in = number(&serde_json::from_str::<Value>(&about).unwrap()["d_in"]);
        // Beside the steps the buffer is filled, and the first rank is given what it writes.
        let beside =
            4.0 * d_in * buffer / 2.0 + if split == "directions" { number(&plan["sae_bytes"]) / 2.0 } else { 0.0 };
        let bytes = number(&plan["steps"]) * number(&over["given_bytes"]) + beside;
        assert!((bytes / 1e6 / found - 1.0).abs() < 0.05, "{split}: planned {} MB, found {found}", bytes / 1e6);
    }
}

#[test]
fn ranks_that_were_given_different_things_are_told_what_differs() {
    let folder = Folder::new();
    let (inputs, out) = (inputs(&folder, 9000), folder.at("out"));
    let mut command = ranks(1);
    command.args(with(&["index", "--out", &out], &inputs));
    command.args([":", "-n", "2", env!("CARGO_BIN_EXE_directrix")]);
    command.args(with(&["index", "--skip-first", "3", "--out", &out], &inputs));
    let said = text(&output(command).stderr);
    assert!(said.contains("run: not the same on all ranks") && said.contains("rank 1"), "{said}");
    assert!(!Path::new(&out).exists());

    let mut command = ranks(2);
    command.args(["index", "--shard", "1/2"]);
    let output = output(command);
    assert!(!output.status.success() && text(&output.stderr).contains("--shard"), "{}", text(&output.stderr));
}

/// The processes of ranks, by their numbers.
fn processes(out: &str) -> Vec<u32> {
    let is_rank = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with(env!("CARGO_BIN_EXE_directrix")) && line.contains(out)
        })
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    entries.filter(is_rank).collect()
}

/// How many pieces of an index are complete.
fn pieces(out: &str) -> usize {
    let Ok(entries) = fs::read_dir(format!("{out}.pieces")) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().path().join("index.json").is_file()).count()
}

fn ended(child: &mut Child, within: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < within {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn a_rank_that_is_killed_ends_all_at_once_and_the_next_run_goes_on() {
    let folder = Folder::new();
    let (inputs, alone, out) = (inputs(&folder, 9000), folder.at("alone"), folder.at("killed"));
    let begun = Instant::now();
    done_by(3, &with(&["index", "--out", &alone], &inputs));
    let whole = begun.elapsed().as_millis() as u64;
    let mut random = Random(5);
    let mut kills = 0;
    for run in 0..40 {
        let n = 2 + run % 3;
        let mut command = ranks(n);
        command.args(with(&["index", "--out", &out], &inputs));
        let mut child = start(&mut command);
        sleep(Duration::from_millis(random.below(whole)));
        let there = processes(&out);
        let before = pieces(&out);
        if there.is_empty() || child.try_wait().unwrap().is_some() {
            if child.wait().unwrap().success() {
                fs::remove_dir_all(&out).unwrap();
            }
            continue;
        }
        let victim = there[random.below(there.len() as u64) as usize];
        drop(Command::new("kill").args(["-9", &victim.to_string()]).status());
        assert!(ended(&mut child, Duration::from_secs(30)), "the others go on");
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            // It had done its part.
            fs::remove_dir_all(&out).unwrap();
            continue;
        }
        let is_complete = Path::new(&out).join("index.json").is_file();
        assert!(is_complete || pieces(&out) >= before, "a piece that was complete is lost");
        assert!(processes(&out).is_empty(), "a rank is left");
        kills += 1;
        if kills == 10 {
            break;
        }
    }
    assert!(kills >= 8, "most runs ended before they were killed: {kills}");
    done_by(2, &with(&["index", "--out", &out], &inputs));
    assert_same(&out, &alone, "killed");
    assert_eq!(folder.names(), ["alone", "ids.jsonl", "killed"]);
}

/// Two hosts that reach each other by TCP alone: network namespaces of this machine, for which one must be root.
struct Hosts {
    number: u32,
    agent: String,
}

impl Hosts {
    fn new(folder: &Folder) -> Hosts {
        let number = std::process::id();
        let [one, two] = ["a", "b"].map(|host| format!("dx{host}{number}"));
        // What mpirun starts the daemon of the other host with, in place of ssh.
        let agent = format!(
            "#!/bin/sh\nshift\nexec ip netns exec {two} unshare --uts sh -c 'hostname dx-b; exec sh -c \"$0\"' \"$*\"\n"
        );
        let hosts = Hosts { number, agent: folder.write("agent", agent) };
        Hosts::sh(&format!(
            "chmod +x {agent}; ip netns add {one}; ip netns add {two}
             ip link add {one} type veth peer name {two}; ip link set {one} netns {one}; ip link set {two} netns {two}
             ip -n {one} addr add 10.77.0.1/24 dev {one}; ip -n {two} addr add 10.77.0.2/24 dev {two}
             for host in {one} {two}; do ip -n $host link set lo up; ip -n $host link set $host up; done",
            agent = hosts.agent
        ));
        hosts
    }

    fn sh(script: &str) {
        let status = Command::new("sh").args(["-ec", script]).status().unwrap();
        assert!(status.success(), "network namespaces need root, and iproute2: {script}");
    }

    /// The cable between them, pulled or plugged in.
    fn link(&self, state: &str) {
        Hosts::sh(&format!("ip -n dxb{0} link set dxb{0} {state}", self.number));
    }

    /// A rank on each.
    fn ranks(&self) -> Command {
        let network = "10.77.0.0/24";
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("dxa{}", self.number), "unshare", "--uts"]);
        command.args([
            "sh",
            "-c",
            "hostname dx-a; exec \"$@\"",
            "sh",
            "mpirun",
            "-n",
            "2",
            "--host",
            "10.77.0.1:1,10.77.0.2:1",
        ]);
        for [name, value] in [
            ["plm_rsh_agent", &self.agent],
            ["btl", "tcp,self"],
            ["btl_tcp_if_include", network],
            ["oob_tcp_if_include", network],
            // Its daemons find out by these that one of them is cut off; by default after minutes.
            ["oob_tcp_keepalive_time", "5"],
            ["oob_tcp_keepalive_intvl", "2"],
            ["oob_tcp_keepalive_probes", "3"],
        ] {
            command.args(["--mca", name, value]);
        }
        for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "RAYON_NUM_THREADS", "HF_HUB_OFFLINE"]
        {
            command.env(name, "1").args(["-x", name]);
        }
        command.arg(env!("CARGO_BIN_EXE_directrix"));
        command
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["a", "b"] {
            drop(Command::new("ip").args(["netns", "del", &format!("dx{host}{}", self.number)]).status());
        }
    }
}

#[test]
fn hosts_that_speak_tcp_do_the_same_and_one_that_is_cut_off_ends_all_within_half_a_minute() {
    let folder = Folder::new();
    let (inputs, alone, out) = (inputs(&folder, 9000), folder.at("alone"), folder.at("hosts"));
    let begun = Instant::now();
    done_by(1, &with(&["index", "--out", &alone], &inputs));
    let whole = begun.elapsed();
    let hosts = Hosts::new(&folder);
    let index = || {
        let mut command = hosts.ranks();
        command.args(with(&["index", "--out", &out], &inputs));
        command
    };
    let all = output(index());
    assert!(all.status.success(), "{}", text(&all.stderr));
    assert_same(&out, &alone, "two hosts");

    fs::remove_dir_all(&out).unwrap();
    let mut child = start(&mut index());
    sleep(whole / 4);
    hosts.link("down");
    let cut = Instant::now();
    assert!(ended(&mut child, Duration::from_secs(30)), "it waits for who is cut off");
    let said = text(&child.wait_with_output().unwrap().stderr);
    assert!(said.contains("has lost communication") || said.contains("has not been heard of"), "{said}");
    while !processes(&out).is_empty() {
        assert!(cut.elapsed() < Duration::from_secs(30), "who is cut off goes on");
        sleep(Duration::from_millis(100));
    }
    hosts.link("up");
    let all = output(index());
    assert!(all.status.success(), "{}", text(&all.stderr));
    assert_same(&out, &alone, "after a cut");
}

#[test]
fn a_full_disk_is_one_failure_and_goes_on_when_there_is_room() {
    let folder = Folder::new();
    let (inputs, alone) = (inputs(&folder, 1000), folder.at("alone"));
    done_by(2, &with(&["index", "--out", &alone], &inputs));
    let disk = folder.at("disk");
    let sh =
        |script: String| assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success(), "{script}");
    sh(format!("mkdir {disk}; mount -t tmpfs -o size=2m tmpfs {disk}"));
    let out = format!("{disk}/index");
    let mut command = ranks(3);
    command.args(with(&["index", "--out", &out], &inputs));
    let full = output(command);
    let said = text(&full.stderr);
    sh(format!("mount -o remount,size=1g {disk}"));
    let made = start(ranks(2).args(with(&["index", "--out", &out], &inputs))).wait_with_output().unwrap();
    let same = made.status.success() && files(Path::new(&out)) == files(Path::new(&alone));
    sh(format!("umount {disk}"));
    assert!(!full.status.success() && said.contains("cannot write") && said.contains("room"), "{said}");
    assert!(same, "{}", text(&made.stderr));
}
