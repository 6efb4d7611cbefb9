//! Signs that training goes wrong.

use serde::{Deserialize, Serialize};

use super::member::Metrics;

/// What has been said already, so that nothing is said at every line of metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Alarms {
    best_mse: Option<f64>,
    dead: usize,
    rising: bool,
    missed: bool,
    silent: bool,
}

impl Alarms {
    /// What is wrong now and was not said before. `limit` is the target of L0 where the coefficients' factor is at its limit.
    pub(super) fn check(&mut self, metrics: &Metrics, directions: usize, limit: Option<f64>) -> Vec<String> {
        let mut said = Vec::new();
        if metrics.dead > directions / 10 && metrics.dead >= self.dead + directions / 10 {
            said.push(format!(
                "{} of {directions} directions are dead; lower the coefficient or the learning rate, or resample",
                metrics.dead
            ));
            self.dead = metrics.dead;
        }
        let mse = metrics.mean.mse;
        let best = self.best_mse.map_or(mse, |best| best.min(mse));
        let rising = mse > 3.0 * best && metrics.mean.explained_variance < 0.5;
        if rising && !self.rising {
            said.push(format!("the squared error rises: {mse:.4} after {best:.4}; lower the learning rate"));
        }
        (self.best_mse, self.rising) = (Some(best), rising);
        let silent = metrics.mean.l0 < 0.5;
        if silent && !self.silent {
            let l0 = metrics.mean.l0;
            said.push(format!("hardly any direction is active (L0 {l0:.2}); lower the coefficient"));
        }
        self.silent = silent;
        let missed = limit.filter(|target| !(0.8..1.25).contains(&(metrics.mean.l0 / target)));
        if let Some(target) = missed.filter(|_| !self.missed) {
            said.push(format!(
                "the coefficients' factor is at its limit ({:.3e}) while L0 is {:.1} and its target {target}; choose other \
                 coefficients",
                metrics.coefficient_scale, metrics.mean.l0
            ));
        }
        self.missed = missed.is_some();
        said
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::StepReport;
    use super::*;

    fn metrics(mse: f64, l0: f64, dead: usize) -> Metrics {
        Metrics {
            step: 1,
            tokens: 1,
            mean: StepReport { mse, l0, explained_variance: 1.0 - mse, ..StepReport::default() },
            dead,
            learning_rate: 1e-3,
            coefficient_scale: 1e3,
            resampled: 0,
            loss_recovered: None,
            evaluation_l0: None,
            evaluation_explained_variance: None,
        }
    }

    #[test]
    fn each_trouble_is_said_once_while_it_lasts() {
        let mut alarms = Alarms::default();
        assert!(alarms.check(&metrics(0.1, 20.0, 0), 100, Some(20.0)).is_empty());
        let said = alarms.check(&metrics(0.9, 0.1, 50), 100, Some(20.0));
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(alarms.check(&metrics(0.9, 0.1, 51), 100, Some(20.0)).is_empty());
        assert_eq!(alarms.check(&metrics(0.1, 20.0, 70), 100, Some(20.0)).len(), 1, "more are dead");
        assert_eq!(alarms.check(&metrics(0.9, 20.0, 70), 100, Some(20.0)).len(), 1, "it rises again");
    }
}
