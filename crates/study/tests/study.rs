//! The shipped study from outside: what it writes, that it tells the truth, and that it can be run again.

use base64::Engine;
use directrix_corpus::Watch;
use std::path::Path;

use directrix_study::{Finished, Study};
use serde_json::Value;

fn run(study: &Study, out: &Path) -> directrix_study::Result<Finished> {
    study.run("study.toml", out, &Watch::nobody())
}

fn shipped(limit: usize) -> Study {
    Study { limit: Some(limit), ..Study::parse(Study::CLOSING_QUOTE, "closing-quote.toml").unwrap() }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A column of a table in `study.json`.
fn column(study: &Value, table: &str, column: &str) -> Vec<f64> {
    let blocks = study["sections"].as_array().unwrap().iter().flat_map(|s| s["blocks"].as_array().unwrap());
    let table = blocks.filter(|b| b["kind"] == "table").find(|b| b["name"] == table).expect(table);
    let columns = table["columns"].as_array().unwrap();
    let cells = &columns.iter().find(|c| c["name"] == column).expect(column)["cells"];
    cells.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

#[test]
fn the_shipped_study_writes_everything_and_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let finished = run(&shipped(600), out).unwrap();
    let page = std::fs::read_to_string(&finished.report).unwrap();
    let study = json(&out.join("study.json"));
    let sections = study["sections"].as_array().unwrap();
    assert_eq!(sections.len(), 19);
    for section in sections {
        assert!(page.contains(&format!("id=\"{}\"", section["name"].as_str().unwrap())), "{}", section["name"]);
        assert!(section["prose"].as_array().unwrap().len() >= 2, "{}", section["name"]);
        for block in section["blocks"].as_array().unwrap() {
            let name = block["name"].as_str().unwrap();
            let files = match block["kind"].as_str().unwrap() {
                "table" => vec![format!("tables/{name}.csv"), format!("tables/{name}.parquet")],
                "figure" => vec![format!("figures/{name}.svg")],
                _ => vec![],
            };
            for file in files {
                assert!(out.join(&file).is_file(), "{file}");
            }
        }
    }
    let manifest = json(&out.join("manifest.json"));
    assert_eq!(manifest["inputs"]["model"]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(manifest["prompts"], 600);
    let [all, chosen_on, measured_on] =
        ["behaviour_prompts", "chosen_on", "measured_on"].map(|name| manifest[name].as_u64().unwrap());
    assert!(chosen_on + measured_on == all && chosen_on.abs_diff(measured_on) <= 1, "{manifest}");
    let prompts = column(&study, "behaviour-prompts", "prompt");
    assert_eq!(prompts.len() as u64, measured_on);
    assert!(prompts.iter().all(|prompt| *prompt < all as f64));
    let caption = format!("on {chosen_on} other prompts");
    assert!(page.contains(&caption), "{caption}");

    // Tables hold every row, and effects stand beside both controls.
    assert_eq!(column(&study, "directions-0", "direction").len(), 2048);
    let tests = column(&study, "cooccurrence", "difference").len();
    let pairs = column(&study, "cooccurrence-pairs", "n");
    assert_eq!(pairs.iter().sum::<f64>() as usize, tests);
    let claimed = column(&study, "cooccurrence-pairs", "q");
    for control in ["random rows", "random directions"] {
        let controls = column(&study, "cooccurrence-pairs", control);
        assert!(claimed.iter().zip(&controls).all(|(q, mean)| q.is_nan() || mean.is_finite()), "{control}");
    }
    for (table, measure) in [
        ("single-ablations", "loss increase"),
        ("joint-ablation-summary", "mean"),
        ("cosine-pairs", "activation change"),
    ] {
        for control in ["random rows", "random directions"] {
            let name = if table == "cosine-pairs" { format!("{measure} {control}") } else { control.to_string() };
            let controls = column(&study, table, &name);
            assert!(controls.iter().any(|mean| mean.is_finite()), "{table} {name}");
            assert_ne!(controls, column(&study, table, measure));
        }
    }
    assert!(page.contains("sampled from the shipped model itself"));
    assert!(page.len() < 15_000_000, "{}", page.len());

    // The browser holds every direction with the numbers of the tables; strongest examples come first.
    let packed = page.split("application/gzip\">").nth(1).unwrap().split('<').next().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).unwrap();
    let browser: Value = serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).unwrap();
    for (number, sae) in browser["saes"].as_array().unwrap().iter().enumerate() {
        let maxima = column(&study, &format!("directions-{number}"), "maximum");
        let density = column(&study, &format!("directions-{number}"), "density");
        for direction in 0..2048 {
            let shown = |name: &str| sae[name][direction].as_f64().unwrap();
            assert!((shown("maximum") - maxima[direction]).abs() <= 1e-6 * maxima[direction]);
            assert!((shown("density") - density[direction]).abs() <= 1e-3 * density[direction]);
            let examples = sae["examples"][direction].as_array().unwrap();
            assert_eq!(examples.is_empty(), density[direction] == 0.0, "{number}/{direction}");
            let Some(first) = examples.first().and_then(Value::as_array) else { continue };
            let at = first[3..].chunks(2).find(|pair| pair[0] == first[2]).unwrap();
            assert_eq!((first[0].as_u64(), at[1].as_u64()), (Some(0), Some(1000)), "the highest is the maximum");
            assert!(examples.len() <= 29);
        }
    }

    // Again: the index is reused, and everything but the timings has the same bits.
    let before = std::fs::metadata(out.join("index/index.json")).unwrap().modified().unwrap();
    run(&shipped(600), out).unwrap();
    assert_eq!(std::fs::metadata(out.join("index/index.json")).unwrap().modified().unwrap(), before);
    assert_eq!(json(&out.join("study.json")), study);
    assert_eq!(std::fs::read_to_string(&finished.report).unwrap(), page);
}

/// The claim of the demo, on prompts that had no part in choosing the directions: ablating them together raises the loss,
/// and more than ablating as many others that are active there.
#[test]
fn directions_chosen_on_one_half_of_the_corpus_matter_on_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = std::fs::read_to_string("../../assets/tinystories-2l/stories.txt").unwrap();
    let texts: Vec<&str> = corpus.split("<|endoftext|>").take(800).collect();
    let study = |half: usize, directions: Option<Vec<usize>>, kind: &str| {
        let out = folder.path().join(format!("{half}-{directions:?}"));
        let corpus = folder.path().join(format!("{half}.txt"));
        std::fs::write(&corpus, texts.chunks(400).nth(half).unwrap().join("<|endoftext|>")).unwrap();
        let sections = vec![toml::from_str(&format!("kind = '{kind}'")).unwrap()];
        run(&Study { corpus: corpus.display().to_string(), directions, sections, ..shipped(400) }, &out).unwrap();
        json(&out.join("study.json"))
    };
    let chosen = study(0, None, "single_ablations");
    let active: Vec<usize> = column(&chosen, "single-ablations", "direction").iter().map(|d| *d as usize).collect();
    let (top, others) = active.split_at(5);
    // Of the others, those in the middle by their effect.
    let others = &others[others.len() / 2 - 2..][..5];
    let increase = |directions: &[usize]| {
        let study = study(1, Some(directions.to_vec()), "joint_ablation");
        let of = |name| column(&study, "joint-ablation-summary", name)[0];
        (of("mean") - of("half width"), of("mean") + of("half width"))
    };
    let (top, others) = (increase(top), increase(others));
    assert!(top.0 > 0.0 && top.0 > others.1, "{top:?} {others:?}");
}

#[test]
fn without_a_split_all_prompts_choose_and_measure() {
    let folder = tempfile::tempdir().unwrap();
    let sections = vec![toml::from_str("kind = 'single_ablations'").unwrap()];
    let finished = run(&Study { split: 0.0, sections, ..shipped(150) }, folder.path()).unwrap();
    let (manifest, study) = (json(&folder.path().join("manifest.json")), json(&folder.path().join("study.json")));
    assert_eq!(manifest["chosen_on"], manifest["behaviour_prompts"]);
    assert_eq!(manifest["measured_on"], manifest["behaviour_prompts"]);
    let [measured, chosen] =
        ["loss increase", "increase when chosen"].map(|name| column(&study, "single-ablations", name));
    assert_eq!(measured, chosen);
    assert!(std::fs::read_to_string(finished.report).unwrap().contains("The same prompts choose and measure"));
}

#[test]
fn tables_of_other_options_do_not_stay_beside_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let with = |kind: &str| {
        let sections = vec![toml::from_str(&format!("kind = '{kind}'")).unwrap()];
        run(&Study { sections, ..shipped(100) }, folder.path()).unwrap();
    };
    let there = |name: &str| folder.path().join(name).exists();
    let old = ["tables/remainder.csv", "tables/remainder.parquet", "figures/remainder.svg"];
    with("remainder");
    std::fs::write(folder.path().join("tables/mine.csv"), "a").unwrap();
    assert!(old.iter().all(|name| there(name)));
    with("tokens");
    assert!(there("tables/tokens.csv") && there("tables/mine.csv") && !old.iter().any(|name| there(name)));

    // A manifest of somebody else's leads nowhere.
    std::fs::write(
        folder.path().join("manifest.json"),
        r#"{"files": ["../x", "tables/../study.json", "report.html", 7]}"#,
    )
    .unwrap();
    with("tokens");
    assert!(there("study.json") && there("report.html"));
}

#[test]
fn chosen_sections_are_made_in_their_order_with_their_options() {
    let text = format!(
        "{}\n[[section]]\nkind = \"cosine\"\npairs = 3\n[[section]]\nkind = \"direction\"\ndirection = 7\n[[section]]\nkind = \"cosine\"\npairs = 5\n",
        Study::CLOSING_QUOTE.replace("title =", "limit = 150\ntitle =")
    );
    let folder = tempfile::tempdir().unwrap();
    run(&Study::parse(&text, "s.toml").unwrap(), folder.path()).unwrap();
    let study = json(&folder.path().join("study.json"));
    let names: Vec<&str> = study["sections"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cosine", "direction", "cosine-2"]);
    assert_eq!(column(&study, "cosine-pairs", "cosine").len(), 3);
    assert_eq!(column(&study, "cosine-pairs-2", "cosine").len(), 5);
}

#[test]
fn what_a_study_names_wrongly_is_refused_before_the_long_work() {
    let message = |study: Study| {
        let folder = tempfile::tempdir().unwrap();
        let message = run(&study, folder.path()).unwrap_err().to_string();
        assert!(!folder.path().join("report.html").exists());
        message
    };
    let base = || shipped(50);
    assert!(message(Study { directions: Some(vec![99_999]), ..base() }).contains("no direction 99999"));
    assert!(message(Study { model: "nowhere".into(), ..base() }).contains("nowhere"));
    assert!(message(Study { corpus: "none.txt".into(), ..base() }).contains("none.txt"));
    let mut study = base();
    study.behaviour.ends_with = "hello there".into();
    assert!(message(study).contains("hello there"));
    let mut study = base();
    study.behaviour.contains = "quantum".into();
    let found = message(study);
    assert!(found.contains("none of 50 documents contains \"quantum\""), "{found}");
    for (text, said) in [
        (
            "kind = \"active\"\noptions = { share_of_prompts = -0.1 }",
            "`share_of_prompts` is -0.1; give a number from 0 to 1",
        ),
        ("kind = \"active\"\noptions = { top = 0 }", "`top` is 0; give a number from 1 on"),
        ("kind = \"cooccurrence\"\noptions = { above = inf }", "`above` is inf; give a number from 0 on"),
    ] {
        let found = message(Study { sections: vec![toml::from_str(text).unwrap()], ..base() });
        assert!(found.contains(said), "{found}");
    }
    let one = Study { saes: vec!["tinystories-2l/sae-l1".into()], sections: vec![], ..base() };
    let text = "kind = \"cosine\"";
    let section = toml::from_str(text).unwrap();
    assert!(message(Study { sections: vec![section], ..one }).contains("needs 2 SAEs"));
}

/// The shipped studies of pairs of prompts, on some stories: every section is made, effects stand beside controls, and again with the same bits.
#[test]
fn the_studies_of_pronouns_and_of_circuits_are_made() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in &Study::SHIPPED[1..] {
        let out = folder.path().join(name);
        let few = "kind = \"edges\"\nsample_prompts = 2\nleast_prompts = 2\nverify_prompts = 4\ntop = 50";
        let text = text.replace("kind = \"edges\"", few);
        let study = Study { limit: Some(300), ..Study::parse(&text, name).unwrap() };
        let finished = run(&study, &out).unwrap();
        let found = json(&out.join("study.json"));
        let sections = found["sections"].as_array().unwrap();
        let kinds: Vec<String> = study.sections.iter().map(|section| section.kind().replace('_', "-")).collect();
        assert_eq!(sections.iter().map(|section| section["name"].as_str().unwrap()).collect::<Vec<_>>(), kinds);
        for section in sections {
            let (prose, blocks) = (section["prose"].as_array().unwrap(), section["blocks"].as_array().unwrap());
            assert!(!prose.is_empty() && !blocks.is_empty(), "{name} {}", section["name"]);
            assert!(!prose.iter().any(|text| text.as_str().unwrap().contains("NaN")), "{name} {}", section["name"]);
        }
        // The whole residual stream at the first block carries all of what two prompts differ in.
        assert!((column(&found, "patching", "share")[0] - 1.0).abs() < 1e-4);
        let (total, direct, indirect) = (
            column(&found, "patching", "total effect"),
            column(&found, "patching", "direct effect"),
            column(&found, "patching", "indirect effect"),
        );
        assert!((0..total.len()).all(|i| (direct[i] + indirect[i] - total[i]).abs() < 1e-9));
        for (table, measure) in [("component-ablation", "loss increase"), ("subspace", "loss increase")] {
            let controls = column(&found, table, "random rows");
            assert!(
                controls.iter().all(|mean| mean.is_finite()) && controls != column(&found, table, measure),
                "{table}"
            );
        }
        let page = std::fs::read_to_string(finished.report).unwrap();
        let again = run(&study, &out).unwrap();
        assert_eq!(std::fs::read_to_string(again.report).unwrap(), page);
    }
    let pronouns = json(&folder.path().join("pronouns/study.json"));
    let (she, he, difference) = (
        column(&pronouns, "before-tokens", "before one"),
        column(&pronouns, "before-tokens", "before other"),
        column(&pronouns, "before-tokens", "difference"),
    );
    assert!((0..she.len()).all(|i| (she[i] - he[i] - difference[i]).abs() < 1e-9));
    assert!(difference.is_sorted_by(|a, b| a.abs() >= b.abs()) && difference.len() > 100);
}

#[test]
fn what_a_section_needs_and_the_study_does_not_give_is_said() {
    let with = |study: &str, section: &str| {
        let text = Study::CLOSING_QUOTE.replace("title =", "limit = 40\ntitle =");
        let study = Study::parse(&format!("{text}\n{study}\n[[section]]\n{section}\n"), "s.toml").unwrap();
        run(&study, tempfile::tempdir().unwrap().path()).unwrap_err().to_string()
    };
    let pair = |clean: &str, corrupted: &str, answers: &str| {
        format!("[[pairs]]\nclean = \"{clean}\"\ncorrupted = \"{corrupted}\"\nanswers = {answers}")
    };
    let good = pair("Her mom was tired, so", "Her dad was tired, so", "[\" she\", \" he\"]");
    let patching = "kind = \"patching\"";
    assert!(with("", patching).contains("section `patching`: needs pairs of prompts; give [[pairs]]"));
    for (bad, said) in [
        (
            pair("Her mom was tired, so", "Her dad was so very tired, so", "[\" she\", \" he\"]"),
            "give two of equally many",
        ),
        (pair("Her mom was tired, so", "Her dad was tired, so", "[\" she is\", \" he\"]"), "is not a single token"),
        (pair("Her mom was tired, so", "Her mom was tired, so", "[\" she\", \" he\"]"), "are the same"),
        (pair("Her mom was tired, so", "Her dad was tired, so", "[\" he\", \" he\"]"), "are the same"),
    ] {
        let found = with(&format!("{good}\n{bad}"), patching);
        assert!(found.contains("pair 2 of [[pairs]] (\"Her mom was tired, so\")") && found.contains(said), "{found}");
    }
    let long = vec!["she"; 300].join(" ");
    let found = with(&pair(&format!("{long} mom"), &format!("{long} dad"), "[\" she\", \" he\"]"), patching);
    assert!(found.contains("a context of 256; shorten it"), "{found}");
    let before = |options: &str| with("", &format!("kind = \"before_tokens\"\n{options}"));
    assert!(before("").contains("needs two tokens; give `one` and `other`"));
    assert!(before("one = \" he\"\nother = \" he is\"").contains("is not a single token"));
    assert!(before("one = \" he\"\nother = \" he\"").contains("are the same token"));
    assert!(with("", "kind = \"dictionaries\"").contains("needs two SAEs of one site"));
    assert!(with("", "kind = \"dictionaries\"\nfirst = 0\nsecond = 1").contains("matched between SAEs of one site"));
    assert!(with("", "kind = \"dictionaries\"\nfirst = 5").contains("names SAE 5, but `saes` names 2"));
    let found = with("", "kind = \"encoded_ablation\"\nvalue = inf");
    assert!(found.contains("`value` is inf"), "{found}");
    assert!(with("", "kind = \"subspace\"\nsizes = []").contains("`sizes` is empty"));
}

/// Two SAEs of one site: the shipped one, and its directions the other way round, some of them lost.
#[test]
fn two_dictionaries_of_one_site_are_matched_in_a_study() {
    use directrix_model::{Folder, Model, Processing};
    use directrix_sae::{Architecture, Sae};

    let folder = tempfile::tempdir().unwrap();
    let assets = "../../assets/tinystories-2l";
    let model = Model::load(&Folder::open(assets).unwrap(), Processing::default()).unwrap();
    let sae = Sae::load(&Folder::open(format!("{assets}/sae-l0")).unwrap()).unwrap().fit(model.config()).unwrap();
    let mut parameters = sae.parameters().clone();
    let kept: Vec<usize> = (48..sae.directions()).rev().collect();
    parameters.encoder = parameters.encoder.gather(kept.iter().copied());
    parameters.w_dec = parameters.w_dec.gather(kept.iter().copied());
    parameters.b_enc = kept.iter().map(|direction| parameters.b_enc[*direction]).collect();
    if let Architecture::JumpRelu { threshold } = &mut parameters.architecture {
        *threshold = kept.iter().map(|direction| threshold[*direction]).collect();
    }
    let other = Sae::new("other".into(), sae.site().clone(), parameters).unwrap();
    let place = folder.path().join("other");
    other.save(&place, &serde_json::json!({}), None).unwrap();

    let section = toml::from_str("kind = 'dictionaries'").unwrap();
    let saes = vec!["tinystories-2l/sae-l0".into(), place.display().to_string()];
    let study = Study { saes, sae: Some(0), sections: vec![section], ..shipped(120) };
    let out = folder.path().join("out");
    run(&study, &out).unwrap();
    let found = json(&out.join("study.json"));
    let (one, other) =
        (column(&found, "dictionaries-cosine", "in first"), column(&found, "dictionaries-cosine", "in second"));
    assert_eq!(one.len(), kept.len());
    assert!(one.iter().zip(&other).all(|(one, other)| kept[*other as usize] as f64 == *one));
    let correlations = column(&found, "dictionaries-cosine", "correlation");
    assert!(correlations.iter().all(|r| r.is_nan() || (*r - 1.0).abs() < 1e-6));
    assert!(correlations.iter().filter(|r| !r.is_nan()).count() > kept.len() / 2);
    let alone = column(&found, "dictionaries-unmatched", "unmatched");
    assert_eq!(alone.iter().map(|direction| *direction as usize).collect::<Vec<_>>(), (0..48).collect::<Vec<_>>());
}
