//! What a direction's activations go together with over a corpus: other directions' activations, and the neurons, which are the
//! numbers that the SAE reads. All positions are looked at, whether they count or not.

use directrix_corpus::{Need, Watch, check_memory};
use rayon::prelude::*;

use super::dashboard::{ROWS, Subject, first};
use super::pass::each_read;
use crate::Result;

/// Neurons whose sums a thread takes at a time: a few lines of the cache of every position.
const NEURONS: usize = 64;

/// A direction or a neuron, and how its values go together with a direction's activations.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Correlated {
    pub(super) number: usize,
    pub(super) pearson: f64,
    pub(super) cosine: f64,
}

/// Correlations with a subject's directions.
pub(super) struct Correlations<'a> {
    subject: Subject<'a>,
    /// Positions of the corpus.
    positions: f64,
    /// Of each direction's activations.
    sums: Vec<Sums>,
}

/// Over the positions of a corpus.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    sum: f64,
    squares: f64,
}

impl<'a> Correlations<'a> {
    pub(super) fn of(subject: Subject<'a>) -> Result<Correlations<'a>> {
        let sums = |direction| {
            let shards = subject.fires.activations(direction)?;
            Ok(shards.iter().flat_map(|shard| shard.values).fold(Sums::default(), |sums, value| sums.and(*value)))
        };
        let sums = (0..subject.fires.directions()).into_par_iter().map(sums).collect::<Result<_>>()?;
        Ok(Correlations { subject, positions: subject.index.meta().positions as f64, sums })
    }

    /// The directions whose activations are correlated most with those of `direction`, of all that ever fire where it does.
    pub(super) fn with_directions(&self, direction: usize) -> Result<Vec<Correlated>> {
        let fires = self.subject.fires;
        let mut products = vec![0.0; self.sums.len()];
        for active in fires.fires_anywhere(direction)? {
            let (directions, values) = fires.at(active.prompt, active.position)?;
            for (other, value) in directions.iter().zip(values) {
                products[*other as usize] += f64::from(active.activation) * f64::from(*value);
            }
        }
        let ever = self.sums.iter().zip(&products).enumerate();
        let ever = ever.filter(|(other, (_, product))| *other != direction && **product > 0.0);
        Ok(self.highest(direction, ever.map(|(other, (sums, product))| (other, *sums, *product))))
    }

    /// The neurons whose values are correlated most with the activations of each of `directions`, by one pass of the model over
    /// the index's prompts. Memory: a sum of 8 bytes for each direction and neuron, and a batch's run.
    pub(super) fn with_neurons(&self, directions: &[usize], watch: &Watch) -> Result<Vec<Vec<Correlated>>> {
        let Subject { index, fires, sae, model, .. } = self.subject;
        let bytes = (directions.len() as u64).saturating_mul(8 * sae.d_in() as u64);
        check_memory(&[Need { option: "the number of --directions", bytes }])?;
        // Each direction's activations, in the order of the corpus, and the sum of their products with every neuron.
        let row = |direction: &usize| {
            let active = fires.activations(*direction)?.into_iter().flat_map(|shard| {
                let positions = shard.positions.iter().map(move |position| shard.first_position + u64::from(*position));
                positions.zip(shard.values)
            });
            Ok((active.peekable(), vec![0.0; sae.d_in()]))
        };
        let mut rows = directions.iter().map(row).collect::<Result<Vec<_>>>()?;
        let mut neurons = vec![Sums::default(); sae.d_in()];
        let mut start = 0;
        each_read(
            index,
            model,
            sae,
            |length| length,
            watch,
            |prompts, read| {
                let end = start + prompts.positions() as u64;
                rows.par_iter_mut().for_each(|(active, products)| {
                    while let Some((position, activation)) = active.next_if(|(position, _)| *position < end) {
                        let neurons = read.row((position - start) as usize);
                        let add =
                            |(product, value): (&mut f64, &f32)| *product += f64::from(*activation) * f64::from(*value);
                        products.iter_mut().zip(neurons).for_each(add);
                    }
                });
                neurons.par_chunks_mut(NEURONS).enumerate().for_each(|(chunk, sums)| {
                    let first = chunk * NEURONS;
                    let mut of_batch = vec![Sums::default(); sums.len()];
                    for row in 0..read.rows() {
                        let values = &read.row(row)[first..first + sums.len()];
                        of_batch.iter_mut().zip(values).for_each(|(sums, value)| *sums = sums.and(*value));
                    }
                    sums.iter_mut().zip(of_batch).for_each(|(sums, of_batch)| {
                        *sums = Sums { sum: sums.sum + of_batch.sum, squares: sums.squares + of_batch.squares };
                    });
                });
                start = end;
                Ok(())
            },
        )?;
        let highest = |(direction, (_, products)): (&usize, (_, Vec<f64>))| {
            let all = neurons.iter().zip(products).enumerate();
            self.highest(*direction, all.map(|(neuron, (sums, product))| (neuron, *sums, product)))
        };
        Ok(directions.par_iter().zip(rows).map(highest).collect())
    }

    /// The highest correlations with the activations of `direction`, of others that are given as number, sums, and the sum of
    /// the products with these activations. With what is constant there is none.
    fn highest(&self, direction: usize, others: impl Iterator<Item = (usize, Sums, f64)>) -> Vec<Correlated> {
        let own = self.sums[direction];
        let correlated = |(number, other, products)| {
            let (pearson, cosine) = own.correlation(other, products, self.positions)?;
            Some(Correlated { number, pearson, cosine })
        };
        let by = |a: &Correlated, b: &Correlated| b.pearson.total_cmp(&a.pearson).then(a.number.cmp(&b.number));
        first(others.filter_map(correlated).collect(), ROWS, by)
    }
}

impl Sums {
    /// With one value more.
    fn and(self, value: f32) -> Sums {
        let value = f64::from(value);
        Sums { sum: self.sum + value, squares: self.squares + value * value }
    }

    /// The variance over `n` positions, times `n²`; 0 where that is no more than what rounding leaves of constants.
    fn spread(self, n: f64) -> f64 {
        let spread = n * self.squares - self.sum * self.sum;
        if spread > 1e-10 * n * self.squares { spread } else { 0.0 }
    }

    /// Pearson correlation and cosine over `n` positions, from the sum of the products; `None` where one of both is constant.
    fn correlation(self, other: Sums, products: f64, n: f64) -> Option<(f64, f64)> {
        let spreads = self.spread(n) * other.spread(n);
        let pearson = (n * products - self.sum * other.sum) / spreads.sqrt();
        (spreads > 0.0).then(|| (pearson, products / (self.squares * other.squares).sqrt()))
    }
}

#[cfg(test)]
mod tests {
    use directrix_corpus::{Chunk, Prompts};
    use directrix_index::{Identity, Index, Input, Options, build};
    use directrix_kernels::Matrix;
    use directrix_model::{Ask, BlockHook, Folder, HookPoint, Model, Processing};
    use directrix_sae::{Architecture, End, Normalisation, Parameters, Sae, Site};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const DIRECTIONS: usize = 24;

    /// An SAE whose first direction never fires, whose second fires everywhere with the value of a neuron, whose third fires at
    /// everything equally, and whose others are random.
    fn random_sae(end: End, rng: &mut ChaCha8Rng) -> Sae {
        let mut random =
            |n: usize, scale: f32| (0..n).map(|_| scale * rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
        let width = end.width;
        let mut encoder = Matrix::new(random(DIRECTIONS * width, 1.0), DIRECTIONS, width);
        let mut b_enc = random(DIRECTIONS, 1.0);
        (0..3).for_each(|direction| encoder.row_mut(direction).fill(0.0));
        encoder.row_mut(1)[width - 1] = 1.0;
        b_enc[..3].copy_from_slice(&[-1.0, 100.0, 0.3]);
        let parameters = Parameters {
            architecture: Architecture::Relu,
            encoder,
            w_dec: Matrix::new(random(DIRECTIONS * width, 1.0), DIRECTIONS, width),
            b_enc,
            b_dec: vec![0.0; width],
            subtract_b_dec: false,
            normalisation: Normalisation::None,
            w_skip: None,
        };
        Sae::new("random".into(), Site::at(end), parameters).unwrap()
    }

    fn index(model: &Model, sae: &Sae, prompts: &Prompts, folder: &std::path::Path) -> Index {
        let input = |name: &str| Input { name: name.into(), hash: name.into() };
        let identity = Identity {
            model: input("m"),
            processing: model.processing(),
            saes: vec![input("a")],
            corpus: input("c"),
            bos: false,
            column: None,
            limit: None,
            options: Options::default(),
        };
        let chunks = std::iter::once(Ok(Chunk { prompts: prompts.clone(), cut: 0 }));
        build(model, std::slice::from_ref(sae), chunks, &identity, folder, &Watch::nobody()).unwrap()
    }

    /// Pearson correlation about the means, and cosine, of two columns; `None` of a constant one.
    fn correlation(a: &[f64], b: &[f64]) -> Option<(f64, f64)> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let centred = |of: &[f64]| {
            let mean = of.iter().sum::<f64>() / of.len() as f64;
            of.iter().map(|value| value - mean).collect::<Vec<_>>()
        };
        let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let is_constant = |of: &[f64]| of.iter().all(|value| *value == of[0]);
        let varies = !is_constant(a) && !is_constant(b);
        varies.then(|| (cosine(&centred(a), &centred(b)), cosine(a, b)))
    }

    /// That `found` are the highest of `all`, which are by number.
    fn are_highest(found: &[Correlated], all: &[Option<(f64, f64)>]) {
        let mut sorted: Vec<f64> = all.iter().flatten().map(|of| of.0).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(found.len(), sorted.len().min(ROWS));
        for (row, highest) in found.iter().zip(sorted) {
            let (pearson, cosine) = all[row.number].unwrap();
            assert!((row.pearson - pearson).abs() < 1e-8 && (row.cosine - cosine).abs() < 1e-8, "{row:?}");
            assert!((row.pearson - highest).abs() < 1e-8, "{row:?} {highest}");
        }
    }

    #[test]
    fn correlations_are_those_of_the_dense_activations_at_all_positions() {
        let model =
            Model::load(&Folder::open("../model/tests/fixtures/gpt2-tiny").unwrap(), Processing::default()).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let sites = [
            (HookPoint::Block(1, BlockHook::MlpPost), None, 128),
            (HookPoint::Block(2, BlockHook::ResidPre), None, 32),
            (HookPoint::Block(0, BlockHook::Z), Some(2), 8),
        ];
        for (hook, head, width) in sites {
            let sae = random_sae(End { hook, head, width }, &mut rng).fit(model.config()).unwrap();
            let mut prompt = |_| {
                let length = rng.random_range(1..=64);
                (0..length).map(|_| rng.random_range(0..128)).collect::<Vec<u32>>()
            };
            // More than two batches.
            let prompts = Prompts::from_rows((0..300).map(&mut prompt));
            let folder = tempfile::tempdir().unwrap();
            let index = index(&model, &sae, &prompts, folder.path());
            let subject = Subject { index: &index, fires: index.sae(0), sae: &sae, model: &model, tokenizer: None };

            let run = model.run(&prompts, &Ask::capture([hook]), &[]).unwrap();
            let read = run.captured(hook).columns_of(sae.site().reads.columns());
            let acts = sae.encode(&read).unwrap().to_dense(DIRECTIONS);
            let column = |data: &[f32], width: usize, column: usize| {
                data.iter().skip(column).step_by(width).map(|value| f64::from(*value)).collect::<Vec<_>>()
            };
            let neurons: Vec<_> = (0..width).map(|neuron| column(read.data(), width, neuron)).collect();
            let acts: Vec<_> = (0..DIRECTIONS).map(|direction| column(&acts, DIRECTIONS, direction)).collect();

            let some: Vec<usize> = (0..DIRECTIONS).filter(|direction| *direction < 3 || direction % 4 > 0).collect();
            let of_threads = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let correlations = Correlations::of(subject).unwrap();
                    let others: Vec<_> = some.iter().map(|of| correlations.with_directions(*of).unwrap()).collect();
                    (correlations.with_neurons(&some, &Watch::nobody()).unwrap(), others)
                })
            };
            let found = of_threads(1);
            assert_eq!(found, of_threads(3));
            for ((direction, neurons_found), others_found) in some.iter().zip(&found.0).zip(&found.1) {
                let own = &acts[*direction];
                let with_neurons: Vec<_> = neurons.iter().map(|neuron| correlation(own, neuron)).collect();
                are_highest(neurons_found, &with_neurons);
                let together = |other: &Vec<f64>| own.iter().zip(other).any(|(a, b)| a * b > 0.0);
                let with = |other: usize| {
                    let is_other = other != *direction && together(&acts[other]);
                    is_other.then(|| correlation(own, &acts[other])).flatten()
                };
                are_highest(others_found, &(0..DIRECTIONS).map(with).collect::<Vec<_>>());
            }
            assert!(found.0[0].is_empty() && found.0[2].is_empty(), "of what never changes");
            assert_eq!(found.0[1][0].number, width - 1);
            assert!(found.0[1][0].pearson > 0.999);
        }
    }

    #[test]
    fn what_rounding_leaves_of_a_constant_is_no_correlation() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..300 {
            let (n, constant) = (rng.random_range(1..5000), rng.random_range(-1e3..1e3_f32));
            let (mut own, mut other, mut products) = (Sums::default(), Sums::default(), 0.0);
            for _ in 0..n {
                let value = rng.random_range(0.0..2.0_f32);
                (own, other) = (own.and(value), other.and(constant));
                products += f64::from(value) * f64::from(constant);
            }
            assert_eq!(own.correlation(other, products, f64::from(n)), None);
        }
    }
}
