//! A training case as `bench/peers/sae_training.py` writes it: settings, initial parameters and batches.

use std::path::Path;
use std::sync::Arc;

use directrix_kernels::Matrix;
use directrix_model::{Folder, Tensors};
use directrix_sae::train::{
    Aux, BatchTopK, Gated, JumpRelu, Matryoshka, Numbers, Objective, Penalty, PenaltyOver, Relu, StepOptions, TopK,
    Trainer,
};
use serde_json::Value;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(crate) struct Case {
    pub(crate) trainer: Trainer,
    pub(crate) batches: Vec<Matrix>,
    pub(crate) steps: usize,
    pub(crate) options: StepOptions,
}

impl Case {
    /// Reads a case; its batches may lie one folder up, shared with other cases.
    pub(crate) fn open(folder: &Path) -> Result<Case> {
        let case: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json"))?)?;
        let number = |key: &str| case[key].as_f64().ok_or(format!("case.json: no {key}"));
        let numbers =
            |key: &str| case[key].as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
        let init = Tensors::open(&Folder::open(folder.display().to_string())?, Some("init.safetensors"))?;
        let shape = init.shape("W_dec")?;
        let (directions, d_in) = (shape[0], shape[1]);
        let name = case["objective"].as_str().unwrap_or_default();
        let coefficient = numbers("coefficient");
        let first = coefficient.first().copied().unwrap_or_default();
        let k = number("k")? as usize;
        let aux = Aux {
            coefficient: number("aux_coefficient")?,
            k: number("k_aux")? as usize,
            dead_after: number("dead_after")? as u64,
        };
        let objective: Arc<dyn Objective> = match name {
            "topk" => Arc::new(TopK { k, aux }),
            "batchtopk" => Arc::new(BatchTopK { k, aux }),
            "matryoshka" => Arc::new(Matryoshka::new(k, numbers("widths").iter().map(|w| *w as usize).collect(), aux)),
            "jumprelu" => {
                let (bandwidth, threshold) = (number("bandwidth")?, number("threshold")?);
                Arc::new(JumpRelu { coefficient: first, bandwidth, threshold })
            }
            "gated" => Arc::new(Gated { coefficient: first }),
            _ => Arc::new(Relu {
                penalty: serde_json::from_value::<Penalty>(case["objective"].clone())?,
                coefficient,
                over: serde_json::from_value::<PenaltyOver>(case["penalty_over"].clone())?,
            }),
        };
        let mut trainer = Trainer::from_parts(
            objective,
            init.matrix("W_enc", d_in, directions)?.transposed(),
            init.matrix("W_dec", directions, d_in)?,
            init.get(if name == "gated" { "b_gate" } else { "b_enc" }, &[directions])?,
            init.get("b_dec", &[d_in])?,
        );
        for (name, numbers) in &mut trainer.extras {
            *numbers = Numbers::new(init.get(name, &[directions])?);
        }
        let beside = folder.join("batches.safetensors").is_file();
        let holder = if beside { folder } else { folder.parent().unwrap_or(folder) };
        let file = Tensors::open(&Folder::open(holder.display().to_string())?, Some("batches.safetensors"))?;
        let shape = file.shape("batches")?;
        let batches = file.get("batches", &shape)?;
        let betas = numbers("betas");
        Ok(Case {
            trainer,
            batches: batches.chunks(shape[1] * d_in).map(|b| Matrix::new(b.to_vec(), shape[1], d_in)).collect(),
            steps: number("steps")? as usize,
            options: StepOptions {
                rate: number("lr")?,
                betas: [betas[0], betas[1]],
                eps: number("eps")?,
                coefficient_scale: 1.0,
            },
        })
    }
}
