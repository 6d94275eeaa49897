//! The figure of the activations: fig. 3. Called by `figures`.

use super::{Figure, Table, mean, short_name};
use crate::cli::analyze::expert_name;
use crate::cli::analyze::plots::boxes::{boxes, percentiles};
use crate::cli::analyze::plots::heat::{Colours, picture};
use crate::cli::analyze::plots::lines::bars;
use crate::cli::analyze::plots::{panels, svg};
use crate::deme::analyze::activations::{Activations, PartChange};
use crate::deme::ranges::Ranges;
use crate::error::Result;

pub fn activations(a: &Activations, ranges: &Ranges) -> Result<Figure> {
    let experts: Vec<Vec<&PartChange>> =
        (0..ranges.len() as usize).map(|i| a.parts.iter().filter(|p| p.expert == i).collect()).collect();
    let names: Vec<String> = experts.first().into_iter().flatten().map(|p| short_name(&p.part)).collect();
    let series = ["channels".to_owned(), "positions".to_owned()];
    let distributions = panels(experts.len(), 2, (500, 300), &series, |i, area| {
        let of = |each: &dyn Fn(&PartChange) -> [f64; 5]| experts[i].iter().map(|p| Some(each(p))).collect::<Vec<_>>();
        let values = [of(&|p| p.channel), of(&|p| p.position)];
        boxes(area, &expert_name(i, ranges), "change of the mean activation", &names, &values)
    })?;
    // The last block before the output: full resolution.
    let last: Vec<&PartChange> = experts.iter().filter_map(|parts| parts.last().copied()).collect();
    let rows = last.len();
    let profiles = svg((1000, 230 * rows as u32), |root| {
        for (p, area) in last.iter().zip(root.split_evenly((rows, 1))) {
            let size = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            let limit = size(&p.channel_profile).max(size(&p.map.values)).max(1e-12);
            let (left, right) = area.split_horizontally(770);
            let title = format!("{}: change of each channel's mean", expert_name(p.expert, ranges));
            bars(&left, &title, ["channel", "change"], &p.channel_profile, limit)?;
            let sides = (p.map.height, p.map.width);
            picture(&right, "of each position's mean", sides, &p.map.values, Colours::Around(limit))?;
        }
        Ok(())
    })?;
    let part = |k: usize| {
        let own: Vec<&PartChange> = experts.iter().map(|parts| parts[k]).collect();
        let share = |e: usize| mean(&own.iter().map(|p| 100.0 * p.energy[e]).collect::<Vec<_>>());
        let chance = own[0].chance();
        let with = |e: usize| format!("{:.2} % ({:.2} %)", share(e), 100.0 * chance[e]);
        let size = format!("{} x {}x{}", own[0].channels, own[0].height, own[0].width);
        vec![own[0].part.clone(), size, with(0), with(1), with(2), with(3)]
    };
    let ratio = |p: &PartChange, e: usize| p.energy[e] / p.chance()[e];
    let more = a.parts.iter().filter(|p| ratio(p, 1) > ratio(p, 2)).count();
    let all = a.parts.len();
    let of = |e: usize| percentiles(a.parts.iter().map(|p| ratio(p, e)).collect()).map_or(0.0, |p| p[2]);
    Ok(Figure {
        title: "Channels or positions: what finetuning changes (fig. 3)".into(),
        seen: format!(
            "Against a change without structure, channels carry {:.0} times and positions {:.1} times their share of the energy (medians); \
             channels stand out more in {more} of {all} parts.",
            of(1),
            of(2)
        ),
        how: format!(
            "Base and expert on the same {} noised images of the expert's timesteps. A channel's activation is its mean over positions, a \
             position's its mean over channels; changes are multiples of the part's root mean square. Above: boxes from the 25th to the 75th \
             percentile, whiskers from the 5th to the 95th. Then the changes in {}, the last part, averaged over the images, both sides on \
             one scale (blue below, red above 0). Table: shares of the change's energy, the mean over the experts, and in brackets those of a \
             change without structure.",
            a.pairs,
            last.first().map_or("", |p| p.part.as_str())
        ),
        svgs: vec![distributions, profiles],
        table: Some(Table {
            head: ["part", "C x HxW", "mean", "channels", "positions", "rest"].map(str::to_owned).into(),
            rows: (0..names.len()).map(part).collect(),
        }),
    })
}
