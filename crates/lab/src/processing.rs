//! How weights are to be processed: what is asked for, and what SAEs were trained on.

use directrix_model::{BlockHook, HookPoint, Model, Processing};
use directrix_sae::{End, Sae};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which steps of weight processing are asked for. One of which nothing is said is taken or not as the SAEs were trained, where
/// they say so and it matters to what they read and write, and is else taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Steps {
    /// As [`Processing::fold_ln`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold_ln: Option<bool>,
    /// As [`Processing::center_writing_weights`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub center_writing_weights: Option<bool>,
    /// As [`Processing::center_unembed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub center_unembed: Option<bool>,
    /// As [`Processing::fold_value_biases`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fold_value_biases: Option<bool>,
}

impl Steps {
    /// No step at all.
    pub fn none() -> Steps {
        let no = Some(false);
        Steps { fold_ln: no, center_writing_weights: no, center_unembed: no, fold_value_biases: no }
    }
}

impl From<Processing> for Steps {
    /// Exactly these steps.
    fn from(processing: Processing) -> Steps {
        let Processing { fold_ln, center_writing_weights, center_unembed, fold_value_biases } = processing;
        Steps {
            fold_ln: Some(fold_ln),
            center_writing_weights: Some(center_writing_weights),
            center_unembed: Some(center_unembed),
            fold_value_biases: Some(fold_value_biases),
        }
    }
}

/// A step that changes activations, not only the weights that read them.
struct Step {
    name: &'static str,
    asked: fn(Steps) -> Option<bool>,
    of: fn(&Processing) -> bool,
    /// Whether it changes what is at a hook point.
    matters: fn(HookPoint) -> bool,
}

const STEPS: [Step; 2] = [
    Step {
        name: "center_writing_weights",
        asked: |steps| steps.center_writing_weights,
        of: |processing| processing.center_writing_weights,
        matters: |hook| match hook {
            HookPoint::Embed | HookPoint::PosEmbed => true,
            HookPoint::Block(_, hook) => matches!(
                hook,
                BlockHook::ResidPre
                    | BlockHook::AttnIn
                    | BlockHook::QInput
                    | BlockHook::KInput
                    | BlockHook::VInput
                    | BlockHook::Result
                    | BlockHook::AttnOut
                    | BlockHook::ResidMid
                    | BlockHook::MlpIn
                    | BlockHook::MlpOut
                    | BlockHook::ResidPost
            ),
            _ => false,
        },
    },
    Step {
        name: "fold_value_biases",
        asked: |steps| steps.fold_value_biases,
        of: |processing| processing.fold_value_biases,
        matters: |hook| matches!(hook, HookPoint::Block(_, BlockHook::V | BlockHook::Z | BlockHook::Result)),
    },
];

impl Step {
    /// Whether an SAE was trained on weights that were processed so, where that matters to it and is known.
    fn of_sae(&self, sae: &Sae) -> Option<bool> {
        let ends = [&sae.site().reads, &sae.site().writes];
        let matters = ends.iter().any(|End { hook, .. }| (self.matters)(*hook));
        sae.trained_on().filter(|_| matters).map(|processing| (self.of)(&processing))
    }
}

/// The steps by which the weights that an SAE was trained on differ from weights processed like this, as far as it is known and
/// matters to what it reads and writes.
pub fn other_weights(sae: &Sae, processing: Processing) -> Vec<&'static str> {
    let differs = |step: &&Step| step.of_sae(sae).is_some_and(|trained| trained != (step.of)(&processing));
    STEPS.iter().filter(differs).map(|step| step.name).collect()
}

/// The processing that is asked for, or else that the SAEs were trained on.
///
/// # Errors
/// [`Error::OtherWeights`] if two SAEs disagree on a step of which nothing is asked.
pub(crate) fn processing(asked: Steps, saes: &[Sae]) -> Result<Processing> {
    let mut meant = Processing {
        fold_ln: asked.fold_ln.unwrap_or(true),
        center_writing_weights: asked.center_writing_weights.unwrap_or(true),
        center_unembed: asked.center_unembed.unwrap_or(true),
        fold_value_biases: asked.fold_value_biases.unwrap_or(true),
    };
    let follow = |step: &Step| -> Result<Option<bool>> {
        let mut said = saes.iter().filter_map(|sae| Some((sae, step.of_sae(sae)?)));
        let (None, Some((one, first))) = ((step.asked)(asked), said.next()) else { return Ok(None) };
        match said.find(|(_, other)| *other != first) {
            None => Ok(Some(first)),
            Some((other, _)) => {
                let (with, without) = if first { (one, other) } else { (other, one) };
                Err(Error::OtherWeights { with: with.name().into(), without: without.name().into(), step: step.name })
            }
        }
    };
    let [center, fold] = [follow(&STEPS[0])?, follow(&STEPS[1])?];
    meant.center_writing_weights = center.unwrap_or(meant.center_writing_weights);
    meant.fold_value_biases = fold.unwrap_or(meant.fold_value_biases);
    Ok(meant)
}

/// What is to be told of the processing: that it follows SAEs, or is not that which one was trained on.
pub(crate) fn notes(asked: Steps, model: &Model, saes: &[Sae]) -> Vec<String> {
    let used = model.processing();
    let mut notes = Vec::new();
    for step in &STEPS {
        let (name, done) = (step.name, (step.of)(&used));
        for sae in saes {
            let sae_name = sae.name();
            match (step.of_sae(sae), (step.asked)(asked)) {
                (Some(false), None) if !done => {
                    notes.push(format!("weights are processed without `{name}`, as {sae_name} was trained"));
                    break;
                }
                (Some(trained), Some(asked)) if trained != asked && asked == done => {
                    let with = |step: bool| if step { "with" } else { "without" };
                    notes.push(format!(
                        "{sae_name} was trained on weights {} `{name}` and is given activations of weights {} it: what it finds there is not what it learnt",
                        with(trained),
                        with(asked)
                    ));
                }
                _ => {}
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use directrix_model::Folder;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// An SAE of the tiny GPT-2 that says this of the weights it was trained on.
    fn sae(hook: &str, said: serde_json::Value, name: &str) -> Sae {
        let width = if hook.contains("mlp.") { 128 } else { 32 };
        let numbers = |n: usize| vec![0_u8; 4 * n];
        let tensors =
            [("W_enc", vec![width, 3]), ("W_dec", vec![3, width]), ("b_enc", vec![3]), ("b_dec", vec![width])];
        let bytes: Vec<(&str, Vec<usize>, Vec<u8>)> =
            tensors.into_iter().map(|(name, shape)| (name, shape.clone(), numbers(shape.iter().product()))).collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let weights = safetensors::serialize(views, None).unwrap();
        let mut config = json!({
            "architecture": "standard", "d_in": width, "d_sae": 3,
            "metadata": { "sae_lens_version": "6.54.12", "hook_name": hook },
        });
        if !said.is_null() {
            config["metadata"]["model_from_pretrained_kwargs"] = said;
        }
        let files = [("cfg.json", config.to_string().into_bytes()), ("sae_weights.safetensors", weights)];
        Sae::load(&Folder::in_memory(name, files.map(|(name, bytes)| (name.to_owned(), bytes)))).unwrap()
    }

    const RESID: &str = "blocks.0.hook_resid_post";
    const NEURONS: &str = "blocks.0.mlp.hook_post";

    #[test]
    fn processing_follows_the_saes_where_it_matters_to_them() {
        let plain = json!({ "center_writing_weights": false });
        let centred = |asked: Steps, saes: &[Sae]| processing(asked, saes).unwrap().center_writing_weights;
        let asked = Steps { center_writing_weights: Some(true), ..Steps::default() };
        assert!(centred(Steps::default(), &[]));
        assert!(!centred(Steps::default(), &[sae(RESID, plain.clone(), "a")]));
        assert!(centred(Steps::default(), &[sae(NEURONS, plain.clone(), "a")]), "neurons are the same either way");
        assert!(centred(Steps::default(), &[sae(RESID, json!(null), "a")]), "nothing is said");
        assert!(
            centred(Steps::default(), &[sae(RESID, json!({}), "a")]),
            "what is not said is done by TransformerLens"
        );
        assert!(centred(asked, &[sae(RESID, plain, "a")]));
        let value =
            processing(Steps::default(), &[sae("blocks.0.attn.hook_z", json!({ "fold_value_biases": false }), "a")]);
        assert!(!value.unwrap().fold_value_biases);
    }

    #[test]
    fn saes_that_disagree_are_not_used_together_unless_one_is_chosen() {
        let saes = [sae(RESID, json!({ "center_writing_weights": false }), "raw"), sae(RESID, json!({}), "centred")];
        let error = processing(Steps::default(), &saes).unwrap_err().to_string();
        assert!(
            error.contains("`centred`") && error.contains("`raw`") && error.contains("center_writing_weights"),
            "{error}"
        );
        assert!(processing(Steps::none(), &saes).is_ok());
    }

    #[test]
    fn what_contradicts_an_sae_is_told() {
        let folder = Folder::open(format!("{}/../model/tests/fixtures/gpt2-tiny", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let told = |asked: Steps, saes: &[Sae]| {
            let model = Model::load(&folder, processing(asked, saes).unwrap()).unwrap();
            notes(asked, &model, saes)
        };
        let raw = || [sae(RESID, json!({ "center_writing_weights": false }), "raw")];
        assert_eq!(
            told(Steps::default(), &raw()),
            ["weights are processed without `center_writing_weights`, as raw was trained"]
        );
        let asked = Steps { center_writing_weights: Some(true), ..Steps::default() };
        assert!(told(asked, &raw())[0].starts_with("raw was trained on weights without `center_writing_weights`"));
        assert!(told(Steps::none(), &[sae(RESID, json!({}), "a")])[0].contains("with `center_writing_weights`"));
        assert!(told(Steps::none(), &[sae(NEURONS, json!({}), "a")]).is_empty());
        assert!(told(Steps::default(), &[sae(RESID, json!({}), "a")]).is_empty());
    }

    proptest! {
        #[test]
        fn what_is_asked_is_done(asked in prop::array::uniform4(prop::option::of(any::<bool>()))) {
            let [fold_ln, center_writing_weights, center_unembed, fold_value_biases] = asked;
            let steps = Steps { fold_ln, center_writing_weights, center_unembed, fold_value_biases };
            let saes = [sae(RESID, json!({ "center_writing_weights": false }), "a")];
            let found = processing(steps, &saes).unwrap();
            prop_assert_eq!(found.fold_ln, fold_ln.unwrap_or(true));
            prop_assert_eq!(found.center_writing_weights, center_writing_weights.unwrap_or(false));
            prop_assert_eq!(found.center_unembed, center_unembed.unwrap_or(true));
            prop_assert_eq!(found.fold_value_biases, fold_value_biases.unwrap_or(true));
        }
    }
}
