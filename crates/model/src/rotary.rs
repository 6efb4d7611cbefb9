//! Rotary positions: how queries and keys turn, and how configurations say it.

use std::f64::consts::PI;
use std::ops::RangeInclusive;

use directrix_corpus::{Field, Settings};

use crate::{Error, Result};

/// Rotary positions (Su et al. 2021), on the first `dimensions` of each head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Numbers of a head that are rotated; even.
    pub dimensions: usize,
    /// Before scaling, pair `i` turns by `base^(-2i / dimensions)` radians from one position to the next.
    pub base: f64,
    /// Whether a number turns with the one beside it; else, with the one half of the dimensions further on.
    pub adjacent_pairs: bool,
    /// How the turns are changed for prompts longer than those first trained on.
    pub scaling: RotaryScaling,
}

/// Changes of the turns, under the names of transformers' `rope_type`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// `default`: none.
    Default,
    /// `linear`: every turn is divided (Chen et al. 2023).
    Linear {
        /// By this.
        factor: f64,
    },
    /// `llama3`: slow turns are divided, fast ones stay, and those between are mixed (Llama 3.1).
    Llama3 {
        /// By what slow turns are divided.
        factor: f64,
        /// A pair that goes round less often than this in the original context is slow.
        low: f64,
        /// A pair that goes round more often than this is fast.
        high: f64,
        /// The original context, in positions.
        original: f64,
    },
    /// `yarn`: as `llama3`, mixed by the number of the pair, and rotated numbers grow (Peng et al. 2023).
    Yarn {
        /// By what slow turns are divided.
        factor: f64,
        /// By what rotated numbers are multiplied.
        amplitude: f64,
        /// Pairs up to the one that goes round so often in the original context stay as they are.
        fast: f64,
        /// Pairs from the one that goes round so often are divided wholly.
        slow: f64,
        /// Whether the numbers of these pairs are rounded outwards.
        truncate: bool,
        /// The original context, in positions.
        original: f64,
    },
}

impl Rotary {
    /// By how many radians each pair turns from one position to the next (transformers, `modeling_rope_utils.py`).
    pub(crate) fn turns(&self) -> Vec<f64> {
        let half = self.dimensions / 2;
        (0..half).map(|i| self.scaled(i, self.base.powf(-(i as f64) / half as f64))).collect()
    }

    /// By what rotated numbers are multiplied.
    pub(crate) fn amplitude(&self) -> f64 {
        if let RotaryScaling::Yarn { amplitude, .. } = self.scaling { amplitude } else { 1.0 }
    }

    /// The turn of pair `i`, which is `turn` unscaled.
    fn scaled(&self, i: usize, turn: f64) -> f64 {
        // The share of `turn` that stays as it is; the rest is divided.
        let mixed = |factor: f64, stays: f64| turn * stays + turn / factor * (1.0 - stays);
        match self.scaling {
            RotaryScaling::Default => turn,
            RotaryScaling::Linear { factor } => turn / factor,
            RotaryScaling::Llama3 { factor, low, high, original } => {
                let rounds = original * turn / (2.0 * PI);
                mixed(factor, ((rounds - low) / (high - low)).clamp(0.0, 1.0))
            }
            RotaryScaling::Yarn { factor, fast, slow, truncate, original, .. } => {
                let dimensions = self.dimensions as f64;
                let pair = |rounds: f64| dimensions * (original / (rounds * 2.0 * PI)).ln() / (2.0 * self.base.ln());
                let (first, last) = (pair(fast), pair(slow));
                let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min(dimensions - 1.0));
                let last = if first == last { last + 0.001 } else { last };
                mixed(factor, 1.0 - ((i as f64 - first) / (last - first)).clamp(0.0, 1.0))
            }
        }
    }
}

/// Factors and numbers of rounds that are not absurd.
const FACTORS: RangeInclusive<f64> = 1e-6..=1e6;

/// What a configuration says of rotary positions: keys at the top, which transformers 4 writes, and an object of keys.
pub(crate) struct Rope<'a> {
    settings: &'a Settings,
    /// `rope_scaling`, which transformers 4 writes, or else `rope_parameters`, which transformers 5 writes.
    nested: Option<Settings>,
}

impl<'a> Rope<'a> {
    /// What `config.json` says for all blocks alike.
    pub(crate) fn of(settings: &'a Settings) -> Result<Rope<'a>> {
        let object = |name: &str| settings.find_some(name).map(|field| field.object()).transpose();
        let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
        let says = |object: &Settings| object.names().next().is_some();
        let nested = scaling.filter(says).or(parameters);
        for of_blocks in ["full_attention", "sliding_attention"] {
            if let Some(field) = nested.as_ref().and_then(|nested| nested.find_some(of_blocks)) {
                return Err(field.wrong("no key: the family has the same positions in every block").into());
            }
        }
        Ok(Rope { settings, nested })
    }

    /// What `config.json` says for blocks that see all positions, and for those that see a window: `rope_parameters` has an
    /// object for each, `rope_scaling` is of the former.
    pub(crate) fn by_window(settings: &'a Settings) -> Result<[Rope<'a>; 2]> {
        let object = |name: &str| settings.find_some(name).map(|field| field.object()).transpose();
        let (scaling, parameters) = (object("rope_scaling")?, object("rope_parameters")?);
        let of_kind = |kind: &str| {
            let field = parameters.as_ref().and_then(|parameters| parameters.find_some(kind));
            field.map(|field| field.object()).transpose()
        };
        let (all, window) = (of_kind("full_attention")?, of_kind("sliding_attention")?);
        if let Some(scaling) = scaling.as_ref().filter(|_| all.is_some()) {
            return Err(scaling
                .problem("`rope_scaling` and `rope_parameters` both say how positions are rotated; remove one")
                .into());
        }
        Ok([Rope { settings, nested: all.or(scaling) }, Rope { settings, nested: window }])
    }

    /// A field of the object.
    fn inner(&self, name: &str) -> Option<Field<'_>> {
        self.nested.as_ref()?.find_some(name)
    }

    /// A number, of the object and at the top under any of `names`; those that are there must agree.
    pub(crate) fn number(&self, inner: &str, names: &[&str], range: RangeInclusive<f64>) -> Result<Option<f64>> {
        let top = names.iter().filter_map(|name| self.settings.find(name));
        let fields: Vec<Field> = top.chain(self.inner(inner)).collect();
        let values = fields.iter().map(|field| field.number(range.clone())).collect::<Result<Vec<_>, _>>()?;
        match values.iter().position(|value| *value != values[0]) {
            Some(other) => Err(fields[other].wrong(&format!("{}, which `{}` is", values[0], fields[0].name())).into()),
            None => Ok(values.first().copied()),
        }
    }

    /// The base, or else `default`.
    pub(crate) fn base(&self, names: &[&str], default: f64) -> Result<f64> {
        Ok(self.number("rope_theta", names, 1.0..=1e15)?.unwrap_or(default))
    }

    /// That whole heads are rotated, which is all that the families after Llama do.
    pub(crate) fn check_whole(&self) -> Result<()> {
        let name = "partial_rotary_factor";
        for share in [self.inner(name), self.settings.find_some(name)].into_iter().flatten() {
            if share.number(0.0..=1.0)? != 1.0 {
                return Err(share.wrong("1: this family rotates whole heads, as transformers does").into());
            }
        }
        Ok(())
    }

    /// How turns are scaled in a model of `n_ctx` positions.
    pub(crate) fn scaling(&self, n_ctx: usize) -> Result<RotaryScaling> {
        let Some(kind) = self.kind()? else { return Ok(RotaryScaling::Default) };
        let name = kind.text()?;
        let factor = |key: &str| self.number(key, &[], FACTORS);
        let needed = |key: &str| -> Result<f64> {
            let problem = format!("positions are scaled as `{name}`, and their key `{key}` is missing");
            factor(key)?.ok_or_else(|| self.settings.problem(problem).into())
        };
        match name {
            "default" => Ok(RotaryScaling::Default),
            "linear" => Ok(RotaryScaling::Linear { factor: needed("factor")? }),
            "llama3" => {
                let (low, high) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
                if low >= high {
                    return Err(self.settings.problem("`low_freq_factor` is not below `high_freq_factor`").into());
                }
                Ok(RotaryScaling::Llama3 { factor: needed("factor")?, low, high, original: self.original(n_ctx)? })
            }
            "yarn" => {
                let original = self.original(n_ctx)?;
                let divisor = factor("factor")?.unwrap_or(n_ctx as f64 / original);
                // Zero stands for the default, as in transformers.
                let number = |key: &str| Ok::<_, Error>(self.number(key, &[], 0.0..=1e6)?.filter(|x| *x != 0.0));
                let grown = |share: f64| if divisor <= 1.0 { 1.0 } else { 0.1 * share * divisor.ln() + 1.0 };
                let amplitude = match (factor("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
                    (Some(given), ..) => given,
                    (None, Some(share), Some(of_all)) => grown(share) / grown(of_all),
                    _ => grown(1.0),
                };
                let (fast, slow) = (number("beta_fast")?.unwrap_or(32.0), number("beta_slow")?.unwrap_or(1.0));
                let truncate = self.inner("truncate").map_or(Ok(true), |field| field.flag())?;
                Ok(RotaryScaling::Yarn { factor: divisor, amplitude, fast, slow, truncate, original })
            }
            _ => Err(kind
                .wrong(
                    "one of `default`, `linear`, `llama3`, `yarn`; no other scaling of rotary positions is supported",
                )
                .into()),
        }
    }

    /// The field that names the scaling: `rope_type`, or `type` in older files.
    fn kind(&self) -> Result<Option<Field<'_>>> {
        let (now, before) = (self.inner("rope_type"), self.inner("type"));
        if let (Some(now), Some(before)) = (&now, &before)
            && !now.is_same(before)
        {
            return Err(before.wrong(&format!("what `{}` is", now.name())).into());
        }
        Ok(now.or(before))
    }

    /// The context of the prompts first trained on.
    fn original(&self, n_ctx: usize) -> Result<f64> {
        let name = "original_max_position_embeddings";
        let (top, inner) = (self.settings.find_some(name), self.inner(name));
        if let (Some(top), Some(inner)) = (&top, &inner)
            && !top.is_same(inner)
        {
            return Err(inner.wrong(&format!("what `{}` is", top.name())).into());
        }
        let positions = top.or(inner).map(|field| field.count(crate::config::MOST_TOKENS)).transpose()?;
        Ok(positions.unwrap_or(n_ctx) as f64)
    }
}
