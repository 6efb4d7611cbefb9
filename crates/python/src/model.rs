//! Models: run, changed, generating.

use std::collections::BTreeMap;
use std::sync::Arc;

use directrix_circuits::{self as circuits, Hooks};
use directrix_corpus as corpus;
use directrix_kernels::Matrix;
use directrix_lab::Sources;
use directrix_model::{
    self as model, Ask, Folder, Function, HookPoint, Hooked, Positions, Processing, RowAt, Sampling, Stored,
};
use numpy::ndarray::IxDyn;
use numpy::{PyArray, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::array::{borrowed, borrowed_row, matrix, owned};
use crate::change::{Intervention, Made, Where};
use crate::each::{Change, log_probs_each};
use crate::error::{Failure, Result};
use crate::prompts::{Prompts, Tokenizer};
use crate::watch::watched;

/// A decoder-only transformer with its tokenizer. Its weights are shared.
#[pyclass(frozen, module = "directrix", name = "CoreModel")]
#[expect(clippy::struct_field_names, reason = "a model of the model room, with what belongs to it")]
pub(crate) struct Model {
    pub(crate) model: model::Model,
    pub(crate) name: String,
    pub(crate) tokenizer: Option<corpus::Tokenizer>,
    pub(crate) notes: Vec<String>,
}

/// A tensor in memory: name, type as safetensors calls it, shape, bytes.
type Tensor<'py> = (String, String, Vec<usize>, PyReadonlyArray1<'py, u8>);

/// An array of any shape.
type Array<'py> = Bound<'py, PyArray<f32, IxDyn>>;

#[pymethods]
impl Model {
    /// Loads a model by its path, the name of one that is part of the program, one of TransformerLens's names, or a repository of the hub.
    /// Its weights are processed by these steps: `fold_ln`, `center_writing_weights`, `center_unembed`, `fold_value_biases`.
    #[staticmethod]
    fn load(py: Python, source: &str, steps: [bool; 4]) -> Result<Model> {
        watched(py, |watch| Model::of(&Sources::watched(watch).model(source)?, processing(steps)))
    }

    /// A model whose files are in memory: `files` are named texts such as `config.json` and `tokenizer.json`.
    #[staticmethod]
    fn of_tensors(
        py: Python,
        name: &str,
        files: BTreeMap<String, String>,
        tensors: Vec<Tensor>,
        steps: [bool; 4],
    ) -> Result<Model> {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let dtype: Dtype = serde_json::from_value(dtype.as_str().into())
                .map_err(|_| Failure::argument(format!("{name} is of the type {dtype}, which is not read")))?;
            let bytes = bytes.as_slice().map_err(|error| Failure::Python(error.into()))?;
            let view =
                TensorView::new(dtype, shape.clone(), bytes).map_err(|e| Failure::argument(format!("{name}: {e}")))?;
            Ok::<_, Failure>((name.clone(), view))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let weights = safetensors::serialize(views, None).map_err(|error| Failure::argument(error.to_string()))?;
        let files = files.into_iter().map(|(name, text)| (name, text.into_bytes()));
        let folder = Folder::in_memory(name, files.chain([("model.safetensors".to_owned(), weights)]));
        watched(py, |_| Model::of(&folder, processing(steps)))
    }

    /// What it is called: where it is from.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// What is to be told of its files.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// Its tokenizer, if its files have one.
    #[getter]
    fn tokenizer(&self) -> Option<Tokenizer> {
        self.tokenizer.clone().map(Tokenizer)
    }

    /// Its dimensions and choices, under TransformerLens's names.
    #[getter]
    fn cfg<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (config, processing) = (self.model.config(), self.model.processing());
        let (norm, eps) = match config.norm {
            model::Norm::Layer { eps } => ("LN", eps),
            model::Norm::Rms { eps } => ("RMS", eps),
        };
        let cfg = PyDict::new(py);
        cfg.set_item("model_name", &self.name)?;
        cfg.set_item("original_architecture", config.family.architecture)?;
        cfg.set_item("n_layers", config.n_layers)?;
        cfg.set_item("d_model", config.d_model)?;
        cfg.set_item("n_heads", config.attention.query_heads)?;
        cfg.set_item("n_key_value_heads", config.attention.key_heads)?;
        cfg.set_item("d_head", config.attention.d_head)?;
        cfg.set_item("d_mlp", config.mlp.d_mlp)?;
        cfg.set_item("gated_mlp", config.mlp.gated)?;
        cfg.set_item("d_vocab", config.d_vocab)?;
        cfg.set_item("n_ctx", config.n_ctx)?;
        // As it is written, not as f32 has it.
        cfg.set_item("eps", eps.to_string().parse::<f64>().unwrap_or(eps.into()))?;
        cfg.set_item("normalization_type", format!("{norm}{}", if processing.fold_ln { "Pre" } else { "" }))?;
        let positions = if config.encoding == model::PositionEncoding::Learned { "standard" } else { "rotary" };
        cfg.set_item("positional_embedding_type", positions)?;
        cfg.set_item("parallel_attn_mlp", config.parallel)?;
        cfg.set_item("output_logits_soft_cap", config.logit_soft_cap)?;
        cfg.set_item("default_prepend_bos", config.family.begins_with_bos)?;
        cfg.set_item("fold_ln", processing.fold_ln)?;
        cfg.set_item("center_writing_weights", processing.center_writing_weights)?;
        cfg.set_item("center_unembed", processing.center_unembed)?;
        cfg.set_item("fold_value_biases", processing.fold_value_biases)?;
        Ok(cfg)
    }

    /// The names of its hook points, in the order that a run reaches them.
    #[getter]
    fn hook_points(&self) -> Vec<String> {
        HookPoint::all(self.model.config()).into_iter().map(|hook| hook.to_string()).collect()
    }

    /// The names of its weights.
    #[getter]
    fn weight_names(&self) -> Vec<String> {
        self.model.weights().named(self.model.config()).into_iter().map(|weight| weight.name).collect()
    }

    /// A weight under TransformerLens's name, as it lies in memory where it is stored as f32 (the array cannot be written to), with its
    /// shape and whether heads stand side by side in its columns.
    fn weight<'py>(slf: Bound<'py, Self>, name: &str) -> Result<(Bound<'py, PyAny>, Vec<usize>, bool)> {
        let (owner, own) = (slf.clone().into_any(), slf.get());
        let named = own.model.weights().named(own.model.config());
        let Some(weight) = named.into_iter().find(|weight| weight.name == name) else {
            return Err(Failure::argument(format!("{} has no weight `{name}`", own.name)));
        };
        let (array, by_columns) = match weight.stored {
            Stored::Numbers(numbers) => (borrowed_row(owner, numbers)?.into_any(), false),
            Stored::Rows(stored) | Stored::HeadsInColumns(stored) => {
                let array = match stored.to_matrix() {
                    std::borrow::Cow::Borrowed(matrix) => borrowed(owner, matrix)?.into_any(),
                    std::borrow::Cow::Owned(matrix) => {
                        let shape = [matrix.rows(), matrix.columns()];
                        owned(slf.py(), matrix.into_data(), &shape)?.into_any()
                    }
                };
                (array, matches!(weight.stored, Stored::HeadsInColumns(_)))
            }
        };
        Ok((array, weight.shape, by_columns))
    }

    /// Runs prompts. Gives the values at the hook points of `capture` (`[rows, …]`: a row for each of `positions`, prompt after
    /// prompt), and, if wanted, logits `[rows, d_vocab]` and the losses of every next token. `replaced` are whole values of hook points,
    /// `[positions, columns]`, which take the place of what the run finds there.
    #[pyo3(signature = (prompts, capture, *, positions = None, logits = false, losses = false, interventions = Vec::new(), replaced = Vec::new()))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        prompts: &Prompts,
        capture: Vec<String>,
        positions: Option<Where>,
        logits: bool,
        losses: bool,
        interventions: Vec<PyRef<Intervention>>,
        replaced: Vec<(String, PyReadonlyArray2<f32>)>,
    ) -> Result<(Bound<'py, PyDict>, Option<Array<'py>>, Option<Array<'py>>)> {
        let prompts = &prompts.0;
        let hooks = capture.iter().map(|name| name.parse()).collect::<model::Result<Vec<HookPoint>>>()?;
        let positions = Where::positions(positions);
        let changes = Changes::of(self, &interventions)?;
        let mut values = BTreeMap::new();
        for (name, rows) in &replaced {
            values.insert(name.parse::<HookPoint>()?, matrix(rows));
        }
        let run = watched(py, |watch| {
            let ask = hooks.iter().fold(Ask::nothing(), |ask, hook| ask.with_capture(*hook, positions.clone()));
            let ask = if logits { ask.with_logits(positions.clone()) } else { ask };
            let ask = if losses { ask.with_losses() } else { ask }.watched(watch);
            let of_sites = changes.hooks()?;
            let mut functions = of_sites.functions().to_vec();
            for (hook, rows) in &values {
                functions.push(put(self.model.config(), *hook, rows, prompts)?);
            }
            Ok::<_, Failure>(of_sites.finished(self.model.run_hooked(prompts, &ask, &changes.at_hooks, &functions))?)
        });
        let mut run = run?;
        let (captured, config) = (PyDict::new(py), self.model.config());
        for (hook, name) in hooks.iter().zip(&capture) {
            let Some(rows) = run.take_captured(*hook) else { continue };
            let shape = [vec![rows.rows()], hook.shape(config, prompts.longest())].concat();
            captured.set_item(name, owned(py, rows.into_data(), &shape)?)?;
        }
        let of_logits = run.take_logits().map(|logits| {
            let shape = [logits.rows(), logits.columns()];
            owned(py, logits.into_data(), &shape)
        });
        let of_losses = losses.then(|| owned(py, run.losses().to_vec(), &[run.losses().len()]));
        Ok((captured, of_logits.transpose()?, of_losses.transpose()?))
    }

    /// Log-probabilities of every token, nats, at one position of each prompt, with each list of interventions alone:
    /// `[changes, prompts, d_vocab]`.
    fn log_probs_each<'py>(
        &self,
        py: Python<'py>,
        prompts: &Prompts,
        changes: Vec<Vec<PyRef<Intervention>>>,
        at: Vec<usize>,
    ) -> Result<Array<'py>> {
        let prompts = &prompts.0;
        let is_there = |(prompt, at): (usize, &usize)| *at < prompts.get(prompt).len();
        if at.len() != prompts.len() || !at.iter().enumerate().all(is_there) {
            return Err(Failure::argument("there is not a position of each prompt that is looked at"));
        }
        let together = |together: &Vec<PyRef<Intervention>>| {
            Change::of(self, &together.iter().map(|made| &**made).collect::<Vec<_>>())
        };
        let changes = changes.iter().map(together).collect::<Result<Vec<_>>>()?;
        let found = watched(py, |watch| log_probs_each(self, prompts, &changes, &at, watch))?;
        Ok(owned(py, found, &[changes.len(), prompts.len(), self.model.config().d_vocab])?)
    }

    /// Continues a prompt by at most `count` tokens; `temperature` 0 takes the most likely one.
    #[pyo3(signature = (prompt, count, *, temperature, top_k = None, seed, stop = None, interventions = Vec::new()))]
    fn generate(
        &self,
        py: Python,
        prompt: Vec<u32>,
        count: usize,
        temperature: f32,
        top_k: Option<usize>,
        seed: u64,
        stop: Option<u32>,
        interventions: Vec<PyRef<Intervention>>,
    ) -> Result<Vec<u32>> {
        let changes = Changes::of(self, &interventions)?;
        if !changes.at_hooks.is_empty() {
            return Err(Failure::argument("a text is generated with changes of an SAE's directions alone"));
        }
        let sampling = Sampling { temperature, top_k, seed, count, stop };
        watched(py, |watch| {
            let of_sites = changes.hooks()?;
            let made = self.model.generate(&prompt, sampling, of_sites.functions(), watch, |_| ());
            Ok::<_, Failure>(of_sites.finished(made)?)
        })
    }

    fn __repr__(&self) -> String {
        let model::Config { family, n_layers, d_model, .. } = self.model.config();
        format!("Model({}: {}, {n_layers} layers, d_model {d_model})", self.name, family.architecture)
    }
}

impl Model {
    fn of(folder: &Folder, processing: Processing) -> Result<Model> {
        let model = model::Model::load(folder, processing)?;
        let (name, tokenizer, notes) = (folder.to_string(), folder.tokenizer()?, model.notes().to_vec());
        Ok(Model { model, name, tokenizer, notes })
    }

    /// A token's text; `[id]` without a tokenizer.
    pub(crate) fn token(&self, token: u32) -> String {
        corpus::token_text(self.tokenizer.as_ref(), token)
    }
}

fn processing([fold_ln, center_writing_weights, center_unembed, fold_value_biases]: [bool; 4]) -> Processing {
    Processing { fold_ln, center_writing_weights, center_unembed, fold_value_biases }
}

/// Interventions, by the way they are made.
struct Changes {
    at_hooks: Vec<model::Intervention>,
    at_sites: Vec<(directrix_sae::Sae, circuits::Change, Positions)>,
}

impl Changes {
    fn of(model: &Model, interventions: &[PyRef<Intervention>]) -> Result<Changes> {
        let mut changes = Changes { at_hooks: Vec::new(), at_sites: Vec::new() };
        for intervention in interventions {
            match &intervention.made {
                Made::AtHook(made) => changes.at_hooks.push(made.clone()),
                Made::AtSite { sae, change, positions } => {
                    let sae = sae.clone().fit(model.model.config())?;
                    changes.at_sites.push((sae, change.clone(), positions.clone()));
                }
            }
        }
        Ok(changes)
    }

    fn hooks(&self) -> Result<Hooks<'_>> {
        Ok(Hooks::at(self.at_sites.iter().map(|(sae, change, positions)| (sae, change.clone(), positions.clone())))?)
    }
}

/// Puts `rows` in the place of what a run finds at a hook point: one for each position, prompt after prompt.
fn put<'a>(
    config: &model::Config,
    hook: HookPoint,
    rows: &'a Matrix,
    prompts: &'a corpus::Prompts,
) -> Result<Hooked<'a>> {
    let longest = prompts.longest();
    let shape = hook.shape(config, longest);
    let wanted = (prompts.positions(), shape.iter().product());
    if (rows.rows(), rows.columns()) != wanted {
        let given = (rows.rows(), rows.columns());
        return Err(Failure::argument(format!("{hook} is {wanted:?} rows and columns, and not {given:?}")));
    }
    if let Some((row, column)) = rows.first_not_finite().filter(|_| shape.last() != Some(&longest) || shape.len() < 2) {
        let value = rows.row(row)[column];
        return Err(Failure::argument(format!("{hook} is {value} at row {row}, column {column}; it must be finite")));
    }
    let function = move |at: RowAt, there: &mut [f32]| {
        let row = rows.row(prompts.offsets()[at.spot.prompt] + at.spot.position);
        // Of attention, each head's row is given alone, as long as its prompt.
        let first = at.head.map_or(0, |head| head * longest);
        there.copy_from_slice(&row[first..first + there.len()]);
    };
    Ok(Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) })
}
