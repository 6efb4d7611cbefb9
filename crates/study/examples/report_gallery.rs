//! A report with every kind of block, from made-up data: `cargo run --example report_gallery -- FOLDER`.

use std::path::PathBuf;

use directrix_circuits::{Cells, Column, Table};
use directrix_corpus::durable;
use directrix_study::{
    Block, Fact, Figure, Report, Section, Series, ShadedText, Shape, Texts, write_figure, write_table,
};

const STORY: &str = "Once upon a time, there was a little girl named Lily. She loved to play outside in the sunshine \
    with her dog, Max. One day, Lily and Max went to the park and saw a big, shiny ball under a tree. \"Look, Max!\" \
    Lily said. \"Let's play with the ball!\" But the ball belonged to a boy named Tim, and Tim was sad because he could \
    not find it anywhere. Lily thought about it for a while. Then she walked over to Tim and gave him the ball. Tim \
    smiled and said, \"Thank you, Lily! Do you want to play with me?\" They played together until the sun went down.\n\
    \nWhen it was time to go home, Lily's mom asked her what she had learned. Lily said that sharing makes everyone \
    happy, and that a friend is worth more than a shiny ball. The moral of the story is that it is always good to be \
    kind and to share with others.";

fn main() -> directrix_study::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".into()));
    let report = report();
    for block in report.sections.iter().flat_map(|section| &section.blocks) {
        match block {
            Block::Table(table) => drop(write_table(&folder.join("tables"), table)?),
            Block::Figure(figure) => drop(write_figure(&folder.join("figures"), figure)?),
            Block::Texts(_) | Block::Browser(_) | Block::Graph(_) => {}
        }
    }
    let path = folder.join("report.html");
    durable::write(&path, report.to_html()?.as_bytes())?;
    println!("{}", path.display());
    Ok(())
}

fn report() -> Report {
    let facts = [
        ("Prompts", "21,990"),
        ("Directions", "16,384"),
        ("Loss recovered, layer 1 MLP", "97.3 %"),
        ("Mean active directions per token", "41.7"),
        ("Dead directions", "1.2 %"),
        ("Circuits with a causal edge", "312"),
    ];
    Report {
        title: "And-gates in a two-layer story model".into(),
        lead: "Which pairs of first-layer directions must both fire for a second-layer direction to fire, and what \
               happens to the model's prediction when one of them is ablated. Every number comes from ablations on \
               held-out stories."
            .into(),
        corpus: String::new(),
        facts: facts
            .iter()
            .map(|&(name, value)| Fact { name: name.into(), value: value.into(), note: String::new() })
            .collect(),
        saes: (0, 0),
        files: Vec::new(),
        sections: vec![
            section("attribution", "Who writes the answer", vec![Block::Figure(lines()), Block::Figure(bars())]),
            section(
                "density",
                "How often directions fire",
                vec![Block::Figure(histogram()), Block::Figure(densities())],
            ),
            section(
                "edges",
                "Cosine edges against causal edges",
                vec![Block::Figure(scatter()), Block::Table(effects())],
            ),
            section(
                "attention",
                "Where the head looks",
                vec![Block::Figure(attention()), Block::Figure(correlations()), Block::Figure(nothing())],
            ),
            section("examples", "What the direction fires on", vec![Block::Texts(texts()), Block::Table(small())]),
        ],
        footer: "directrix study studies/and-gates.toml, seed 7, CPU".into(),
    }
}

fn section(name: &str, title: &str, blocks: Vec<Block>) -> Section {
    let prose = vec![
        "Each value is the change of the answer token's logit when the direction is set to zero at the position that \
         predicts the answer; everything before that position is left as it was."
            .into(),
    ];
    Section { name: name.into(), title: title.into(), prose, blocks }
}

fn figure(name: &str, title: &str, x: &str, y: &str, caption: &str, shape: Shape) -> Figure {
    Figure {
        name: name.into(),
        title: title.into(),
        x: x.into(),
        y: y.into(),
        caption: caption.into(),
        shape,
        links: Vec::new(),
    }
}

/// A repeatable value in `[-1, 1)`.
fn noise(i: usize) -> f64 {
    let mixed = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn tokens() -> Vec<String> {
    let mut tokens: Vec<String> = vec!["<|endoftext|>".into()];
    let mut word = String::new();
    for c in STORY.chars() {
        if !c.is_alphanumeric() && !word.is_empty() && word != " " {
            tokens.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    tokens.push(word);
    tokens
}

fn lines() -> Figure {
    let mut labels = vec!["embed".to_string(), "pos_embed".into()];
    for layer in 0..2 {
        labels.extend((0..8).map(|head| format!("L{layer}H{head}")));
        labels.push(format!("{layer}_mlp_out"));
    }
    let series = |name: &str, seed| {
        let values = (0..labels.len()).map(|i| noise(i + seed) * (0.4 + i as f64 / 12.0)).collect();
        Series { name: name.into(), values }
    };
    let series = vec![series("original", 0), series("first direction ablated", 100), series("both ablated", 200)];
    let caption = "Direct logit attribution of each component to the answer token; means over 100 prompts.";
    figure(
        "dla-components",
        "Direct logit attribution by component",
        "component",
        "attribution (logits)",
        caption,
        Shape::Lines { labels, series },
    )
}

fn bars() -> Figure {
    let labels = ["original", "first ablated", "second ablated", "both ablated", "random pair"];
    let shape = Shape::Bars {
        labels: labels.iter().map(ToString::to_string).collect(),
        values: vec![1.32, 2.41, 1.96, 3.87, 1.35],
        half_widths: vec![0.11, 0.22, 0.17, 0.31, 0.12],
        bands: Vec::new(),
    };
    let caption = "Loss at the answer; means over 100 prompts with 95 % intervals.";
    figure("ablation-loss", "Loss after ablating either or both directions", "ablated", "loss (nats)", caption, shape)
}

fn histogram() -> Figure {
    let values: Vec<f64> = (0..4000).map(|i| noise(3 * i) + noise(3 * i + 1) + noise(3 * i + 2)).collect();
    let caption = "Pairs of a first-layer decoder row and a second-layer encoder column, 4,000 pairs.";
    figure(
        "cosines",
        "Cosine similarities of all pairs",
        "cosine similarity",
        "pairs",
        caption,
        Shape::histogram(&values, 60),
    )
}

fn densities() -> Figure {
    let values: Vec<f64> = (0..4000).map(|i| -5.0 + 5.0 * noise(i).abs().powi(4)).collect();
    let caption = "One value per direction; the vertical axis is logarithmic.";
    let shape = Shape::histogram(&values, 40).with_log_counts();
    figure(
        "densities",
        "Firing densities",
        "log10 of the share of tokens a direction fires on",
        "directions",
        caption,
        shape,
    )
}

fn scatter() -> Figure {
    let x: Vec<f64> = (0..200).map(|i| noise(i).abs()).collect();
    let y = x.iter().enumerate().map(|(i, x)| 2.0 * x * x + 0.4 * noise(i + 999)).collect();
    let hover = (0..200).map(|i| format!("L0 {} → L1 {}", i * 37 % 2048, i * 91 % 2048)).collect();
    let caption = "One point per pair of directions; the drop is a mean over the prompts both fire on.";
    figure(
        "cosine-and-effect",
        "Cosine similarity predicts the causal effect only in part",
        "cosine similarity",
        "drop of activation",
        caption,
        Shape::Scatter { x, y, hover },
    )
}

fn attention() -> Figure {
    let tokens: Vec<String> = tokens().into_iter().take(100).collect();
    let values = (0..tokens.len() * tokens.len()).map(|i| {
        let (query, key) = (i / tokens.len(), i % tokens.len());
        if key > query {
            f64::NAN
        } else if key == 0 {
            0.3
        } else {
            (0.9 * (-((query - key) as f64) / 4.0).exp() + 0.1 * noise(i).abs()).min(1.0)
        }
    });
    let shape =
        Shape::Heatmap { columns: tokens.clone(), rows: tokens.clone(), values: values.collect(), diverging: false };
    let caption = "Attention of layer 0, head 3 on one story; rows are queries, columns keys.";
    figure("attention-0-3", "Attention pattern of L0H3", "key token", "query token", caption, shape)
}

fn correlations() -> Figure {
    let names: Vec<String> = ["loss", "logit", "rank", "cosine", "density"].iter().map(ToString::to_string).collect();
    let cell = |i: usize| if i / 5 == i % 5 { 1.0 } else { noise((i / 5) * (i % 5) + i / 5 + i % 5) };
    let shape =
        Shape::Heatmap { columns: names.clone(), rows: names, values: (0..25).map(cell).collect(), diverging: true };
    figure("correlations", "Correlations of the effects", "", "", "Pearson correlations over 200 pairs.", shape)
}

fn nothing() -> Figure {
    let shape = Shape::Scatter { x: vec![], y: vec![f64::NAN], hover: vec![] };
    figure("nothing", "An analysis without a result", "x", "y", "No direction passed the threshold.", shape)
}

fn effects() -> Table {
    let column = |name: &str, cells| Column { name: name.into(), cells };
    let tokens = tokens();
    let rows = 0..100_usize;
    let real = |scale: f64, seed: usize| Cells::Real(rows.clone().map(|i| scale * noise(i + seed)).collect());
    let mut drop: Vec<f64> = rows.clone().map(|i| noise(i + 5) * 3.0).collect();
    drop[3] = f64::NAN;
    Table {
        name: "effects".into(),
        caption: "One row per pair of directions; means over the prompts on which both fire.".into(),
        columns: vec![
            column("first", Cells::Integer(rows.clone().map(|i| (i * 37 % 2048) as i64).collect())),
            column("second", Cells::Integer(rows.clone().map(|i| (i * 91 % 2048) as i64).collect())),
            column("top token", Cells::Text(rows.clone().map(|i| tokens[i + 1].clone()).collect())),
            column("n", Cells::Integer(rows.clone().map(|i| 100 + (i * i % 900) as i64).collect())),
            column("cosine", real(1.0, 0)),
            column("mean drop", Cells::Real(drop)),
            column("standard error", real(0.001, 50)),
            column("p", real(1e-6, 90)),
            column("section", Cells::Text(rows.map(|i| format!("blocks.{}.mlp.hook_post", i % 2)).collect())),
        ],
    }
}

fn small() -> Table {
    let column = |name: &str, cells| Column { name: name.into(), cells };
    Table {
        name: "boosted".into(),
        caption: "The tokens the direction boosts most.".into(),
        columns: vec![
            column("token", Cells::Text(vec![" Lily".into(), "\n".into(), " the".into(), "</script>".into()])),
            column("boost", Cells::Real(vec![3.2, 2.11, 1.0, -0.000_002])),
        ],
    }
}

fn texts() -> Texts {
    let tokens = tokens();
    let rows = [150, 60, 20, 190].into_iter().map(|centre| {
        let value = |i: usize| {
            let peak = 4.2 * (-(i as f64 - centre as f64).abs() / 2.0).exp();
            if i % 23 == 5 {
                -1.5
            } else if peak > 0.05 {
                peak
            } else {
                0.0
            }
        };
        let values: Vec<f32> = (0..tokens.len()).map(|i| value(i) as f32).collect();
        ShadedText {
            label: format!("prompt {}, maximum 4.2 at position {centre}", centre * 13),
            tokens: tokens.clone(),
            values,
            maximum: 4.2,
            marked: (centre != 20).then_some(centre),
        }
    });
    Texts {
        name: "top-examples".into(),
        title: "Top examples of direction L1 1204".into(),
        caption: "Shade is the activation, blue where negative; the outlined token has the maximum.".into(),
        rows: rows.collect(),
    }
}
