//! What can be done to the values at an SAE's site, and what that adds there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use directrix_kernels::{Matrix, SparseActivations};
use directrix_model::{HookPoint, Model};
use directrix_sae::Sae;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::error::threshold;
use crate::{Error, Matched, Result, Subspace};

/// What is done to the values at an SAE's site, at a position.
#[derive(Debug, Clone)]
pub enum Change {
    /// Nothing.
    None,
    /// Subtract what these directions contribute: `activation × W_dec`, activations as the unchanged site gives them; of an SAE
    /// that normalises, times the size of what it reads.
    Ablate(Vec<u32>),
    /// As `Ablate`, but along random rows with the norms of these directions' decoder rows: what taking out as much does whatever
    /// it is. The same seed gives a direction the same row.
    AblateRandom {
        /// The directions whose activations are taken.
        directions: Vec<u32>,
        /// What the rows are drawn from.
        seed: u64,
    },
    /// As `Ablate`, but where it is added, what is taken out is turned: it is as long and has the same part along what is there, and the
    /// rest points anywhere. The norms behind it change as much, and nothing else does but by chance. The same seed turns it the
    /// same way.
    AblateTurned {
        /// The directions whose activations are taken.
        directions: Vec<u32>,
        /// What the way is drawn from.
        seed: u64,
    },
    /// Replace by the SAE's reconstruction, without these directions.
    Reconstruct {
        /// Directions left out of the reconstruction.
        without: Vec<u32>,
    },
    /// Set the activations of these directions and leave what the SAE does not explain as it is: `(to − activation) × W_dec` is added,
    /// also where they are not active.
    Set {
        /// The directions.
        directions: Vec<u32>,
        /// What they are set to.
        to: f32,
    },
    /// Multiply the activations of these directions: `(by − 1) × activation × W_dec` is added.
    Scale {
        /// The directions.
        directions: Vec<u32>,
        /// The factor.
        by: f32,
    },
    /// Replace by the SAE's reconstruction with the activations of these directions set: ablation by encoding, where it is 0.
    ReconstructSet {
        /// The directions.
        directions: Vec<u32>,
        /// What they are set to.
        to: f32,
    },
    /// Keep what lies in a subspace, and replace what is orthogonal to it by what `rest` has there: by zero without it.
    Keep {
        /// What is kept.
        subspace: Arc<Subspace>,
        /// A row, `[d_out]`: the site's mean for example.
        rest: Option<Arc<[f32]>>,
    },
    /// Replace by zero.
    Zero,
    /// Replace by this row, `[d_out]`: the site's mean for example.
    Replace(Arc<[f32]>),
}

impl Change {
    /// As much along random rows, or as many dimensions of random rows kept, drawn by `seed`: a control of an ablation or of a
    /// subspace, and of nothing else.
    pub fn along_random_rows(&self, seed: u64) -> Option<Change> {
        match self {
            Change::Ablate(directions) => Some(Change::AblateRandom { directions: directions.clone(), seed }),
            Change::Keep { subspace, rest } => {
                let subspace = Subspace::random(subspace.dimensions(), subspace.width(), seed);
                Some(Change::Keep { subspace: Arc::new(subspace), rest: rest.clone() })
            }
            _ => None,
        }
    }

    /// The same of random directions of matched density, drawn by `seed`: a control of directions ablated, set or
    /// scaled, and of nothing else.
    /// None where none can be drawn, as for directions that never fire.
    pub fn of_random_directions(&self, matched: &Matched, seed: u64) -> Option<Change> {
        let drawn = |directions| Some(matched.draw(directions, seed)).filter(|drawn| !drawn.is_empty());
        match self {
            Change::Ablate(directions) => Some(Change::Ablate(drawn(directions)?)),
            Change::Set { directions, to } => Some(Change::Set { directions: drawn(directions)?, to: *to }),
            Change::Scale { directions, by } => Some(Change::Scale { directions: drawn(directions)?, by: *by }),
            Change::ReconstructSet { directions, to } => {
                Some(Change::ReconstructSet { directions: drawn(directions)?, to: *to })
            }
            _ => None,
        }
    }

    /// That it can be made at the site of `sae`.
    pub(crate) fn check(&self, sae: &Sae) -> Result<()> {
        let width = |what, given| {
            if given == sae.d_out() { Ok(()) } else { Err(Error::Lengths { what, given, wanted: sae.d_out() }) }
        };
        self.directions().iter().try_for_each(|direction| sae.check(*direction as usize).map(drop))?;
        match self {
            Change::Set { to, .. } | Change::ReconstructSet { to, .. } => threshold("to", *to),
            Change::Scale { by, .. } => threshold("by", *by),
            Change::Keep { subspace, rest } => {
                width("numbers in a row of the subspace", subspace.width())?;
                rest.iter().try_for_each(|rest| width("numbers in the row of the rest", rest.len()))
            }
            Change::Replace(by) => width("numbers in the row", by.len()),
            _ => Ok(()),
        }
    }

    /// The directions that it names.
    pub(crate) fn directions(&self) -> &[u32] {
        match self {
            Change::Ablate(directions)
            | Change::AblateRandom { directions, .. }
            | Change::AblateTurned { directions, .. }
            | Change::Reconstruct { without: directions }
            | Change::Set { directions, .. }
            | Change::Scale { directions, .. }
            | Change::ReconstructSet { directions, .. } => directions,
            Change::None | Change::Keep { .. } | Change::Zero | Change::Replace(_) => &[],
        }
    }
}

/// What a change adds to the site at one position.
pub(crate) enum Difference {
    /// Multiples of rows of `W_dec`.
    Directions(Vec<(u32, f32)>),
    /// A row, `[d_out]`.
    Row(Vec<f32>),
}

/// The values at both ends of an SAE's site at one position.
#[derive(Clone, Copy)]
pub(crate) struct SiteRow<'a> {
    pub(crate) sae: &'a Sae,
    /// What the SAE reads: `[width of the hook point]`.
    pub(crate) read: &'a [f32],
    /// What its reconstruction stands for: `[width of the hook point]`.
    pub(crate) written: &'a [f32],
}

impl SiteRow<'_> {
    /// What giving `directions` the activations `to` adds, in rows of `W_dec`; `None` if nothing.
    fn set(
        &self,
        directions: &[u32],
        to: impl Fn(f32) -> f32,
        active: impl FnOnce() -> Result<Vec<(u32, f32)>>,
    ) -> Result<Option<Vec<(u32, f32)>>> {
        let directions = each_once(directions);
        let activations: Vec<f32> = if self.sae.activates_by_itself() {
            let of = |&direction: &u32| Ok(self.sae.activation(self.read, direction)?);
            directions.iter().map(of).collect::<Result<_>>()?
        } else {
            let active = active()?;
            let of = |direction: &u32| active.iter().find(|(d, _)| d == direction).map_or(0.0, |(_, value)| *value);
            directions.iter().map(of).collect()
        };
        let unit = self.sae.unit(self.read);
        let changed = directions.into_iter().zip(activations).filter(|(_, activation)| *activation != to(*activation));
        let added: Vec<(u32, f32)> = changed.map(|(d, activation)| (d, (to(activation) - activation) * unit)).collect();
        Ok(Some(added).filter(|added| !added.is_empty()))
    }

    /// The reconstruction of these activations, `[d_out]`.
    fn decoded(&self, active: impl IntoIterator<Item = (u32, f32)>) -> Vec<f32> {
        let mut kept = SparseActivations::default();
        kept.push(active);
        let read = Matrix::new(self.read.to_vec(), 1, self.read.len());
        self.sae.decode(&kept, &read).into_data()
    }

    /// What `change` adds to the site; `None` if nothing. `active` gives the site's activations, which not all changes need.
    pub(crate) fn difference(
        &self,
        change: &Change,
        active: impl FnOnce() -> Result<Vec<(u32, f32)>>,
    ) -> Result<Option<Difference>> {
        let site = &self.written[self.sae.site().writes.columns()];
        let replaced = |by: &[f32]| Difference::Row(by.iter().zip(site).map(|(new, old)| new - old).collect());
        Ok(match change {
            Change::None => None,
            Change::Ablate(directions) | Change::AblateTurned { directions, .. } => {
                self.set(directions, |_| 0.0, active)?.map(Difference::Directions)
            }
            Change::Set { directions, to } => self.set(directions, |_| *to, active)?.map(Difference::Directions),
            Change::Scale { directions, by } => {
                self.set(directions, |activation| by * activation, active)?.map(Difference::Directions)
            }
            Change::AblateRandom { directions, seed } => self.set(directions, |_| 0.0, active)?.map(|ablated| {
                let mut sum = vec![0.0; site.len()];
                for (direction, by) in ablated {
                    let row = random_row(self.sae.w_dec().row(direction as usize), *seed, direction);
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += by * x);
                }
                Difference::Row(sum)
            }),
            Change::Reconstruct { without } => {
                Some(replaced(&self.decoded(active()?.into_iter().filter(|(d, _)| !without.contains(d)))))
            }
            Change::ReconstructSet { directions, to } => {
                let directions = each_once(directions);
                let mut kept = active()?;
                kept.retain(|(d, _)| directions.binary_search(d).is_err());
                kept.extend(directions.iter().map(|d| (*d, *to)));
                kept.sort_unstable_by_key(|(d, _)| *d);
                Some(replaced(&self.decoded(kept)))
            }
            Change::Keep { subspace, rest } => Some(replaced(&subspace.kept(site, rest.as_deref()))),
            Change::Zero => Some(replaced(&vec![0.0; site.len()])),
            Change::Replace(by) => Some(replaced(by)),
        })
    }
}

/// Directions as the set they are, ascending: to name one twice is to name it.
pub(crate) fn each_once(directions: &[u32]) -> Vec<u32> {
    let mut directions = directions.to_vec();
    directions.sort_unstable();
    directions.dedup();
    directions
}

/// A row of a direction distributed evenly over all, with the norm of `row`.
pub(crate) fn random_row(row: &[f32], seed: u64, stream: u32) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream as u64);
    let drawn: Vec<f32> = StandardNormal.sample_iter(random).take(row.len()).collect();
    let norm = |row: &[f32]| row.iter().map(|&x| x as f64 * x as f64).sum::<f64>().sqrt();
    let scale = (norm(row) / norm(&drawn)) as f32;
    drawn.into_iter().map(|x| scale * x).collect()
}

/// Turns the part of `row` that is at right angles to `there` into a random one as long; without mean, where norms do not see one.
pub(crate) fn turn(row: &mut [f32], there: &[f32], seed: u64, is_centred: bool) {
    let random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: Vec<f64> = StandardNormal.sample_iter(random).take(row.len()).collect();
    let mut there: Vec<f64> = there.iter().map(|x| f64::from(*x)).collect();
    if is_centred {
        for x in [&mut drawn, &mut there] {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            x.iter_mut().for_each(|x| *x -= mean);
        }
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let share = |of: &[f64]| if dot(&there, &there) > 0.0 { dot(of, &there) / dot(&there, &there) } else { 0.0 };
    let own: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
    let (along, of_drawn) = (share(&own), share(&drawn));
    let across =
        |of: &[f64], share: f64| of.iter().zip(&there).map(|(x, there)| x - share * there).collect::<Vec<f64>>();
    let (own, drawn) = (across(&own, along), across(&drawn, of_drawn));
    let scale = (dot(&own, &own) / dot(&drawn, &drawn)).sqrt();
    for ((x, there), drawn) in row.iter_mut().zip(&there).zip(&drawn) {
        *x = (along * there + scale * drawn) as f32;
    }
}

/// Turns differences at an SAE's site into rows to add at a hook point: the site's own, or where the residual stream has
/// what it writes, so that the pass goes on behind the site's block.
pub(crate) struct Writer<'a> {
    model: &'a Model,
    sae: &'a Sae,
    hook: HookPoint,
    /// Width of the site's hook point.
    width: usize,
    /// By direction, what a unit of its activation adds at `hook`.
    written: HashMap<u32, Vec<f32>>,
}

impl<'a> Writer<'a> {
    /// Where differences at the site of `sae` are added when what they do is looked at from `seen_from` on.
    pub(crate) fn hook(model: &Model, sae: &Sae, seen_from: HookPoint) -> HookPoint {
        let end = &sae.site().writes;
        end.written_at(model.config()).filter(|hook| *hook <= seen_from).unwrap_or(end.hook)
    }

    pub(crate) fn new(model: &'a Model, sae: &'a Sae, hook: HookPoint, width: usize) -> Writer<'a> {
        Writer { model, sae, hook, width, written: HashMap::new() }
    }

    /// What each difference adds at the hook point, `[differences, width there]`.
    pub(crate) fn rows(&mut self, differences: &[Difference]) -> Result<Matrix> {
        let (mut unknown, mut rows) = (BTreeSet::new(), Vec::new());
        for difference in differences {
            match difference {
                Difference::Row(row) => rows.push(row.as_slice()),
                Difference::Directions(of) => {
                    unknown.extend(of.iter().map(|(d, _)| *d).filter(|d| !self.written.contains_key(d)));
                }
            }
        }
        let decoders: Vec<&[f32]> = unknown.iter().map(|d| self.sae.w_dec().row(*d as usize)).collect();
        let decoders = self.write(&decoders)?;
        self.written.extend(unknown.into_iter().zip(decoders.iter_rows().map(<[f32]>::to_vec)));
        let rows = self.write(&rows)?;
        let mut rows = rows.iter_rows();
        let mut written = Matrix::zeros(differences.len(), decoders.columns());
        for (i, difference) in differences.iter().enumerate() {
            let sum = written.row_mut(i);
            match difference {
                Difference::Row(_) => sum.copy_from_slice(rows.next().expect("written above")),
                Difference::Directions(of) => {
                    for (direction, by) in of {
                        sum.iter_mut().zip(&self.written[direction]).for_each(|(s, w)| *s += by * w);
                    }
                }
            }
        }
        Ok(written)
    }

    /// Rows of the site, `[d_out]` each, as they are at the hook point.
    fn write(&self, rows: &[&[f32]]) -> Result<Matrix> {
        let end = &self.sae.site().writes;
        let rows = Matrix::new(rows.concat(), rows.len(), end.width);
        if self.hook != end.hook {
            return Ok(self.sae.to_residual(self.model, &rows)?);
        }
        let mut wide = Matrix::zeros(rows.rows(), self.width);
        for (i, row) in rows.iter_rows().enumerate() {
            wide.row_mut(i)[end.columns()].copy_from_slice(row);
        }
        Ok(wide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_turned_is_as_long_and_has_the_same_part_along_what_is_there() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
        let centred = |x: Vec<f32>| {
            let mean = x.iter().sum::<f32>() / x.len() as f32;
            x.into_iter().map(|x| x - mean).collect::<Vec<f32>>()
        };
        let row = centred((0..200).map(|i| ((i * 37) % 11) as f32).collect());
        let there = centred((0..200).map(|i| ((i * 17) % 13) as f32 + row[i]).collect());
        for is_centred in [false, true] {
            let mut turned = row.clone();
            turn(&mut turned, &there, 3, is_centred);
            assert!((dot(&turned, &turned) / dot(&row, &row) - 1.0).abs() < 1e-5);
            assert!((dot(&turned, &there) / dot(&row, &there) - 1.0).abs() < 1e-5);
            assert!(dot(&turned, &row) / dot(&row, &row) < 0.8);
            assert!(!is_centred || turned.iter().sum::<f32>().abs() < 1e-2);
            let (mut again, mut other) = (row.clone(), row.clone());
            turn(&mut again, &there, 3, is_centred);
            turn(&mut other, &there, 4, is_centred);
            assert!(turned == again && turned != other);
        }
    }

    #[test]
    fn random_rows_have_the_norm_and_their_own_way() {
        let row: Vec<f32> = (0..300).map(|i| (i % 7) as f32 - 2.5).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
        let (one, again) = (random_row(&row, 3, 5), random_row(&row, 3, 5));
        assert_eq!(one, again);
        let norm = dot(&row, &row);
        for other in [row.clone(), random_row(&row, 4, 5), random_row(&row, 3, 6)] {
            assert!((dot(&one, &one) / norm - 1.0).abs() < 1e-5);
            assert!((dot(&one, &other) / norm).abs() < 0.3);
        }
    }
}
