//! Random models, prompts and interventions.

use std::sync::Arc;

use directrix_corpus::Prompts;
use directrix_kernels::Matrix;
use directrix_model::{BlockHook, Columns, Edit, Folder, HookPoint, Intervention, Model, Positions, Processing, Rows};
use proptest::prelude::*;

/// One of every family; all have 64 tokens or more.
pub(crate) const MODELS: [&str; 9] = [
    "neo-tiny",
    "gpt2-tiny",
    "neox-tiny",
    "llama-tiny",
    "mistral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gemma2-tiny",
    "gemma3-tiny",
];

pub(crate) fn model(name: &str, processing: Processing) -> Model {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(&path).unwrap(), processing).unwrap()
}

pub(crate) fn models() -> impl Strategy<Value = Model> {
    let names = prop::sample::select(MODELS.to_vec());
    (names, any::<bool>())
        .prop_map(|(name, processed)| model(name, if processed { Processing::default() } else { Processing::none() }))
}

pub(crate) fn prompts() -> impl Strategy<Value = Prompts> {
    prop::collection::vec(prop::collection::vec(0..64_u32, 2..30), 1..6).prop_map(Prompts::from_rows)
}

/// Whether a hook point has a number per key position.
pub(crate) fn by_key(hook: HookPoint) -> bool {
    matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern))
}

/// Hook points at which interventions can be made.
pub(crate) fn hooks(model: &Model) -> Vec<HookPoint> {
    let all = HookPoint::all(model.config()).into_iter();
    all.filter(|hook| *hook != HookPoint::UnembedOut && !hook.to_string().ends_with("scale")).collect()
}

/// An intervention at `positions`, `count` of them, of one of the kinds that can be made at `hook`.
pub(crate) fn intervention(
    model: &Model,
    hook: HookPoint,
    positions: Positions,
    count: usize,
    [kind, columns]: [usize; 2],
) -> Intervention {
    let shape = hook.shape(model.config(), 0);
    let width: usize = shape.iter().product();
    let mut choices = vec![(Columns::All, width)];
    if shape.len() == 2 {
        choices.push((Columns::Head(columns % shape[0]), shape[1]));
    }
    if !by_key(hook) {
        choices.push((Columns::Range(width / 3..width / 2 + 1), width / 2 + 1 - width / 3));
    }
    let (columns, width) = choices.swap_remove(columns % choices.len());
    let row: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
    let each: Vec<f32> = (0..width * (count + 2)).map(|i| (i as f32 * 0.3).cos()).collect();
    let each = Rows::each(&Arc::new(Matrix::new(each, count + 2, width)), 1..count + 1);
    let mut edits = vec![Edit::Zero, Edit::Scale(-0.5)];
    if !by_key(hook) {
        let rows = Rows::every(row);
        edits.extend([Edit::Set(rows.clone()), Edit::Add(rows.clone()), Edit::Project(rows)]);
        edits.extend([Edit::Set(each.clone()), Edit::Add(each)]);
    }
    let edit = edits.swap_remove(kind % edits.len());
    Intervention::new(hook, positions, edit).in_columns(columns)
}
