//! The attention pattern of a head on one behaviour prompt.

use directrix_circuits::logit_attribution;
use directrix_corpus::Prompts;
use directrix_lab::Opened;
use directrix_model::{Ask, BlockHook, HookPoint};
use directrix_sae::Sae;

use super::{Body, SectionKind, figure, quoted};
use crate::findings::Findings;
use crate::{Result, Shape};

options! {
    /// A head's attention pattern.
    Attention {
        /// Layer; that of the chosen head if not said.
        layer: Option<usize> = None,
        /// Head; the one with the largest logit attribution if not said.
        head: Option<usize> = None,
        /// The first behaviour prompt of at most this many positions is shown.
        positions: usize = 100,
    }
}

impl SectionKind for Attention {
    const KIND: &str = "attention";
    const TITLE: &str = "An attention pattern";

    fn check(&self, opened: &Opened, _sae: &Sae) -> Result<(), String> {
        let model = &opened.model;
        let (layers, heads) = (model.config().n_layers, model.config().attention.query_heads);
        if self.layer.is_some_and(|l| l >= layers) || self.head.is_some_and(|h| h >= heads) {
            return Err(format!(
                "names layer {:?}, head {:?}; the model has {layers} layers of {heads} heads, counted from 0",
                self.layer, self.head
            ));
        }
        Ok(())
    }

    fn make(&self, found: &Findings) -> Result<Body> {
        let (layer, head) = match (self.layer, self.head) {
            (Some(layer), Some(head)) => (layer, head),
            (layer, head) => strongest_head(found, layer, head)?,
        };
        let prompts = &found.behaviour.prompts;
        let fits = |tokens: &&[u32]| tokens.len() <= self.positions;
        let prompt = prompts.iter().find(fits).unwrap_or_else(|| prompts.get(0));
        let n = prompt.len();
        let hook = HookPoint::Block(layer, BlockHook::Pattern);
        let run = found.opened.model.run(&Prompts::from_rows([prompt]), &Ask::capture([hook]), &[])?;
        let pattern = run.captured(hook);
        let values: Vec<f64> = (0..n)
            .flat_map(|query| {
                let row = &pattern.row(query)[head * n..(head + 1) * n];
                row.iter().enumerate().map(move |(key, &p)| if key > query { f64::NAN } else { p as f64 })
            })
            .collect();
        let before = (n - 2) * n;
        let weights = &values[before..before + n - 1];
        let key = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0);
        let texts = found.texts(prompt);
        let labels: Vec<String> = texts.iter().enumerate().map(|(i, text)| format!("{i} {text}")).collect();
        let prose = vec![
            format!(
                "At the position that predicts the answer, head L{layer}H{head} looks most at {} (position {key}), with weight {:.2}.",
                quoted(&texts[key]),
                weights[key]
            ),
            "Each row is a position and shows where the head looks from there: columns are the positions before it, and a row sums to one.".into(),
        ];
        let blocks = vec![figure(
            "attention-pattern",
            &format!("Attention pattern of L{layer}H{head}"),
            ("looks at (key)", "from (query)"),
            &format!("The first behaviour prompt of at most {} positions.", self.positions),
            Shape::Heatmap { columns: labels.clone(), rows: labels, values, diverging: false },
        )];
        Ok(Body { prose, blocks })
    }
}

/// The head that contributes most to the answer's logit, up or down, among those of a layer or number if it is said.
fn strongest_head(found: &Findings, layer: Option<usize>, head: Option<usize>) -> Result<(usize, usize)> {
    let rows = logit_attribution(&found.opened.model, &found.behaviour_prompts(200), found.watch)?;
    let size = |(layer, head): (usize, usize)| {
        let label = format!("L{layer}H{head}");
        rows.iter().find(|row| row.component == label).map_or(0.0, |row| row.mean.abs())
    };
    let config = found.opened.model.config();
    let all = (0..config.n_layers).flat_map(|l| (0..config.attention.query_heads).map(move |h| (l, h)));
    let allowed = all.filter(|(l, h)| layer.is_none_or(|layer| layer == *l) && head.is_none_or(|head| head == *h));
    Ok(allowed.max_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or((0, 0)))
}
