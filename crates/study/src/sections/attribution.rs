//! Linear accounts: who writes the answer, who drives a direction.

use directrix_circuits::{
    Component, Inactive, Table, direction_attribution, feature_attribution, logit_attribution, mean_decomposition,
};
use directrix_corpus::Prompts;
use serde::Serialize;

use super::{figure, list, quoted, section, title};
use crate::lab::Lab;
use crate::report::{Block, Section};
use crate::study::{DirectionAttributionSection, FeatureAttribution, LogitAttribution, Remainder, SectionKind};
use crate::{Result, Series, Shape};

/// The components with the largest and smallest mean.
fn extremes(rows: &[Component]) -> Option<(&Component, &Component)> {
    let by_mean = |a: &&Component, b: &&Component| a.mean.total_cmp(&b.mean);
    Some((rows.iter().max_by(by_mean)?, rows.iter().min_by(by_mean)?))
}

fn labels(rows: &[Component]) -> Vec<String> {
    rows.iter().map(|row| row.component.clone()).collect()
}

fn means(rows: &[Component]) -> Vec<f64> {
    rows.iter().map(|row| row.mean).collect()
}

pub(super) fn logit(lab: &Lab) -> Result<Section> {
    let rows = logit_attribution(&lab.model, &lab.behaviour.prompts)?;
    let mut out = section(
        "logit-attribution",
        title(&SectionKind::LogitAttribution(LogitAttribution {})),
        [
            extremes(&rows).map_or_else(String::new, |(high, low)| {
                format!(
                    "Over {} prompts, {} adds most to the logit of {} ({:+.2} ± {:.2}, 95 % interval), and {} takes most away ({:+.2}).",
                    high.n,
                    high.component,
                    quoted(&lab.answer()),
                    high.mean,
                    high.half_width,
                    low.component,
                    low.mean
                )
            }),
            "The logit is a sum over what heads, MLPs and embeddings wrote, once the final LayerNorm's scale is held fixed: a component far from zero writes towards the answer or against it directly, not through later layers.".into(),
        ],
    );
    out.blocks = vec![
        Block::Figure(figure(
            "logit-attribution",
            &format!("Direct logit attribution to {}", quoted(&lab.answer())),
            ("component", "contribution to the logit"),
            "Mean over behaviour prompts, at the position that predicts the answer.",
            Shape::Lines { labels: labels(&rows), series: vec![Series { name: "mean".into(), values: means(&rows) }] },
        )),
        Block::Table(Table::from_rows(
            "logit-attribution",
            "Mean contribution of each component to the answer's logit over n prompts, with standard error and half width of the 95 % interval.",
            &rows,
        )),
    ];
    Ok(out)
}

pub(super) fn remainder(lab: &Lab, options: &Remainder) -> Result<Section> {
    let rows =
        directrix_circuits::remainder(&lab.model, lab.sae(), &lab.answers(options.prompts), lab.behaviour.answer)?;
    let share = rows[1].mean / rows[0].mean;
    let mut out = section(
        "remainder",
        title(&SectionKind::Remainder(options.clone())),
        [
            format!(
                "What the site of {} writes contributes {:+.2} to the logit of {}; the SAE's reconstruction of it carries {:+.2}, that is {:.0} %.",
                lab.sae().short_name(),
                rows[0].mean,
                quoted(&lab.answer()),
                rows[1].mean,
                100.0 * share
            ),
            format!(
                "The remainder, {:+.2} ± {:.2}, is what the directions cannot explain of this behaviour: the closer to zero, the more of the story they can tell.",
                rows[2].mean, rows[2].half_width
            ),
        ],
    );
    out.blocks = vec![
        Block::Figure(figure(
            "remainder",
            "Logit attribution of the site, its reconstruction and the remainder",
            ("what is written", "contribution to the logit"),
            "Mean over prompts at the position that predicts the answer; bars are 95 % intervals.",
            Shape::Bars {
                labels: labels(&rows),
                values: means(&rows),
                half_widths: rows.iter().map(|row| row.half_width).collect(),
            },
        )),
        Block::Table(Table::from_rows(
            "remainder",
            "Mean direct logit attribution over n prompts, biases not included.",
            &rows,
        )),
    ];
    Ok(out)
}

#[derive(Serialize)]
struct FeatureRow<'a> {
    direction: u32,
    inactive_neurons: &'a str,
    component: String,
    n: usize,
    mean: f64,
    se: f64,
    half_width: f64,
}

pub(super) fn feature(lab: &Lab, options: &FeatureAttribution) -> Result<Section> {
    let sae = lab.sae();
    let mean = mean_decomposition(&lab.model, sae, &lab.stories(options.mean_prompts))?;
    let kinds = [("mean-replaced", Inactive::Mean(&mean)), ("zeroed", Inactive::Zero)];
    let (mut blocks, mut rows, mut leaders) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, inactive) in kinds {
        let (mut series, mut names) = (Vec::new(), Vec::new());
        for &direction in &lab.top {
            let examples = lab.sae_index().top_examples(&lab.index, direction as usize, options.prompts);
            let prompts = Prompts::from_rows(examples.iter().map(|e| lab.index.prompt(e.prompt)));
            let positions: Vec<usize> = examples.iter().map(|e| e.position).collect();
            let found = feature_attribution(&lab.model, sae, direction, &prompts, &positions, inactive)?;
            names = labels(&found);
            series.push(Series { name: direction.to_string(), values: means(&found) });
            if let (Some((high, _)), "zeroed") = (extremes(&found), kind) {
                leaders.push(format!("{} for {direction} ({:+.2})", high.component, high.mean));
            }
            rows.extend(found.into_iter().map(|row| FeatureRow {
                direction,
                inactive_neurons: kind,
                component: row.component,
                n: row.n,
                mean: row.mean,
                se: row.se,
                half_width: row.half_width,
            }));
        }
        blocks.push(Block::Figure(figure(
            &format!("feature-attribution-{kind}"),
            &format!("Feature attribution, inactive neurons {kind}"),
            ("component", "contribution to the pre-activation"),
            &format!(
                "Mean over the {} stories on which a direction is most active, at the position of its maximum; one line per direction.",
                options.prompts
            ),
            Shape::Lines { labels: names, series },
        )));
    }
    blocks.push(Block::Table(Table::from_rows(
        "feature-attribution",
        "Mean contribution of each component to the direction's pre-activation through active neurons, over n stories, with standard error and half width of the 95 % interval.",
        &rows,
    )));
    let mut out = section(
        "feature-attribution",
        title(&SectionKind::FeatureAttribution(options.clone())),
        [
            format!("With inactive neurons zeroed, the component that drives a direction most is {}.", list(&leaders)),
            "A direction reads the MLP's neurons, and they read what earlier components wrote: high points are the heads and embeddings that switch the direction on. The two figures differ in what stands in for neurons that are not active.".into(),
        ],
    );
    out.blocks = blocks;
    Ok(out)
}

pub(super) fn directions(lab: &Lab, options: &DirectionAttributionSection) -> Result<Section> {
    let sae = lab.sae();
    let mut means = vec![0.0_f64; sae.directions()];
    for (&direction, &value) in lab.acts.directions().iter().zip(lab.acts.values()) {
        means[direction as usize] += value as f64 / lab.acts.positions() as f64;
    }
    let all = direction_attribution(&lab.model, sae, &means, lab.behaviour.answer)?;
    let mut top = all.clone();
    top.sort_by(|a, b| b.scaled.total_cmp(&a.scaled));
    top.truncate(options.top);
    let drawn: Vec<_> = all.iter().filter(|row| row.mean_activation > options.active_above).collect();
    let agree = top.iter().filter(|row| lab.top.contains(&(row.direction as u32))).count();
    let mut out = section(
        "direction-attribution",
        title(&SectionKind::DirectionAttribution(options.clone())),
        [
            format!(
                "By weights and mean activation alone, the directions that push {} most are {}; {} of the {} found by ablation {} among them.",
                quoted(&lab.answer()),
                list(&top.iter().map(|row| row.direction).collect::<Vec<_>>()),
                agree,
                lab.top.len(),
                if agree == 1 { "is" } else { "are" }
            ),
            format!(
                "A direction at the upper right is both active before the answer and written towards it; of {} drawn, {} point away from it.",
                drawn.len(),
                drawn.iter().filter(|row| row.attribution < 0.0).count()
            ),
        ],
    );
    let scatter =
        |name: &str, heading: &str, x: &str, value: &dyn Fn(&directrix_circuits::DirectionAttribution) -> f64| {
            Block::Figure(figure(
                name,
                heading,
                (x, "mean activation"),
                &format!(
                    "Directions with a mean activation above {} before the answer, over all behaviour prompts.",
                    options.active_above
                ),
                Shape::Scatter {
                    x: drawn.iter().map(|row| value(row)).collect(),
                    y: drawn.iter().map(|row| row.mean_activation).collect(),
                    hover: drawn.iter().map(|row| format!("direction {}", row.direction)).collect(),
                },
            ))
        };
    out.blocks = vec![
        Block::Table(Table::from_rows(
            "direction-attribution",
            "Attribution is W_dec W_out W_U of the answer, per unit of activation and without LayerNorm's scale; scaled is times the mean activation over behaviour prompts, zeros included.",
            &top,
        )),
        scatter("direction-attribution", "Attribution and activation", "attribution to the answer", &|row| {
            row.attribution
        }),
        scatter(
            "direction-attribution-scaled",
            "Activation × attribution, and activation",
            "mean activation × attribution to the answer",
            &|row| row.scaled,
        ),
    ];
    Ok(out)
}
