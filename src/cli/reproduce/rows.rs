//! The rows of each table: which models there are, how each is trained, and what the paper calls them.
//! Called by `cli::reproduce`.

use super::config::{Config, Deme};

/// A run of `deme finetune`: N experts, or one model where N is 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    pub ranges: u32,
    /// Of each expert
    pub steps: u64,
    pub lr: f64,
    pub p: f64,
    pub consistency: f64,
    pub projection: String,
    pub weighting: &'static str,
}

/// What a row judges.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    Base,
    /// The one model of a training with N = 1, as it is
    Whole(Training),
    Ensemble(Training),
    Merged(Training),
}

/// A model of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub name: String,
    pub subject: Subject,
    pub role: Role,
}

/// What a row is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Base,
    /// What the base would become without the method; the first is plain continued training
    Baseline,
    Ensemble,
    Merged,
}

impl Training {
    fn of(deme: &Deme) -> Self {
        Self {
            ranges: deme.ranges,
            steps: deme.steps,
            lr: deme.lr,
            p: deme.p,
            consistency: deme.consistency,
            projection: deme.projection.clone(),
            weighting: "none",
        }
    }

    /// The traditional paradigm with as many updates altogether: all timesteps, no consistency, no projection.
    fn continued(&self, lr: f64, weighting: &'static str) -> Self {
        let steps = self.steps * u64::from(self.ranges);
        Self { ranges: 1, steps, lr, p: 0.0, consistency: 0.0, projection: "none".into(), weighting }
    }

    /// As many updates altogether, by `ranges` experts.
    fn split(&self, ranges: u32) -> Self {
        let steps = (self.steps * u64::from(self.ranges)).div_ceil(u64::from(ranges));
        Self { ranges, steps, ..self.clone() }
    }

    /// All that one training differs from another by, as a folder's name.
    pub fn name(&self, seed: u64) -> String {
        let Self { ranges, steps, lr, p, consistency, projection, weighting } = self;
        format!(
            "n{ranges}-u{steps}-lr{lr:e}-p{p}-c{consistency}{}{}-s{seed}",
            if projection == "none" { String::new() } else { format!("-{projection}") },
            if *weighting == "none" { String::new() } else { format!("-{weighting}") },
        )
    }

    /// The options of `deme finetune` that say the same.
    pub fn words(&self, seed: u64) -> Vec<String> {
        let Self { ranges, steps, lr, p, consistency, projection, weighting } = self;
        [
            format!("--ranges={ranges}"),
            format!("--steps={steps}"),
            format!("--lr={lr:e}"),
            format!("--p={p}"),
            format!("--consistency={consistency}"),
            format!("--projection={projection}"),
            format!("--loss-weighting={weighting}"),
            format!("--seed={seed}"),
        ]
        .into()
    }
}

impl Subject {
    pub fn training(&self) -> Option<&Training> {
        match self {
            Self::Base => None,
            Self::Whole(training) | Self::Ensemble(training) | Self::Merged(training) => Some(training),
        }
    }

    /// As a file's name. The base has no seed.
    pub fn name(&self, seed: u64) -> String {
        match self {
            Self::Base => "base".into(),
            Self::Whole(training) => training.name(seed),
            Self::Ensemble(training) => format!("{}-ensemble", training.name(seed)),
            Self::Merged(training) => format!("{}-merged", training.name(seed)),
        }
    }
}

fn row(name: impl Into<String>, role: Role, subject: Subject) -> Row {
    Row { name: name.into(), subject, role }
}

fn base() -> Row {
    row("base", Role::Base, Subject::Base)
}

/// Plain continued training as every table has it.
fn continued(of: &Training, config: &Config) -> Row {
    let lr = config.baselines.lr.unwrap_or(of.lr);
    row("continued training", Role::Baseline, Subject::Whole(of.continued(lr, "none")))
}

/// Table 1: loss weightings against experts, all with as many updates.
pub fn table1(config: &Config) -> Vec<Row> {
    let deme = Training::of(&config.deme);
    let lr = config.baselines.lr.unwrap_or(deme.lr);
    let baseline = |name: &str, weighting| row(name, Role::Baseline, Subject::Whole(deme.continued(lr, weighting)));
    vec![
        base(),
        continued(&deme, config),
        baseline("SNR+1", "snr+1"),
        baseline("truncated SNR", "truncated-snr"),
        baseline("Min-SNR-5", "min-snr"),
        baseline("P2", "p2"),
        row("DeMe, ensemble", Role::Ensemble, Subject::Ensemble(deme.clone())),
        row("DeMe, merged", Role::Merged, Subject::Merged(deme)),
    ]
}

/// Table 3: what probabilistic sampling, the consistency loss and channel projections do, for N = 1 and more.
pub fn table3(config: &Config) -> Vec<Row> {
    let deme = Training { projection: "none".into(), ..Training::of(&config.deme) };
    let whole = deme.continued(config.baselines.lr.unwrap_or(deme.lr), "none");
    let projected = Training { projection: "all".into(), ..whole };
    let n = config.table3.ranges;
    let experts = deme.split(n);
    let probabilistic = Training { consistency: 0.0, ..experts.clone() };
    let hard = Training { p: 0.0, ..probabilistic.clone() };
    let all = Training { projection: "all".into(), ..experts.clone() };
    let mut rows =
        vec![base(), continued(&deme, config), row("N = 1, projection", Role::Baseline, Subject::Whole(projected))];
    let kinds = [
        ("ranges alone", hard),
        ("+ probabilistic sampling", probabilistic),
        ("+ consistency", experts),
        ("+ projection", all),
    ];
    for (name, training) in kinds {
        rows.push(row(format!("N = {n}, {name}, ensemble"), Role::Ensemble, Subject::Ensemble(training.clone())));
        rows.push(row(format!("N = {n}, {name}, merged"), Role::Merged, Subject::Merged(training)));
    }
    rows
}

/// Figure 9: N with p fixed, and p with N fixed.
pub fn fig9(config: &Config) -> Vec<Row> {
    let deme = Training::of(&config.deme);
    let by_n = config.fig9.ranges.iter().map(|&n| (format!("N = {n}"), deme.split(n)));
    let by_p = config.fig9.p.iter().map(|&p| (format!("p = {p}"), Training { p, ..deme.clone() }));
    let merged = by_n.chain(by_p).map(|(name, training)| row(name, Role::Merged, Subject::Merged(training)));
    [base(), continued(&deme, config)].into_iter().chain(merged).collect()
}

/// Every combination of the sweep, and continued training at each rate and cost.
pub fn sweep(config: &Config) -> Vec<Row> {
    let Some(sweep) = &config.sweep else { return Vec::new() };
    let deme = Training::of(&config.deme);
    let mut rows = vec![base()];
    for &steps in &sweep.steps {
        for &lr in &sweep.lr {
            let cost = Training { steps, lr, ..deme.clone() };
            let name = format!("continued training, {} x {steps}, lr {lr:e}", deme.ranges);
            rows.push(row(name, Role::Baseline, Subject::Whole(cost.continued(lr, "none"))));
            for &n in &sweep.ranges {
                for &p in &sweep.p {
                    let training = Training { p, ..cost.split(n) };
                    let name = format!("merged, {n} x {}, lr {lr:e}, p {p}", training.steps);
                    rows.push(row(name, Role::Merged, Subject::Merged(training)));
                }
            }
        }
    }
    rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn config() -> Config {
        let text = "model = 'm'\ndata = 'd'\nholdout = 10\n[deme]\nranges = 4\nsteps = 60\nlr = 1e-5\n\
                    [sweep]\nlr = [1e-5, 1e-6]\np = [0.4]\nsteps = [30, 60]\nranges = [1, 4]\n";
        toml::from_str(text).unwrap()
    }

    /// Updates altogether.
    fn cost(row: &Row) -> u64 {
        row.subject.training().map_or(240, |t| t.steps * u64::from(t.ranges))
    }

    #[test]
    fn every_row_of_a_table_costs_as_many_updates() {
        for rows in [table1(&config()), table3(&config()), fig9(&config())] {
            assert!(rows.iter().all(|row| cost(row) == 240), "{rows:#?}");
        }
    }

    #[test]
    fn different_trainings_have_different_names() {
        let mut all = [table1(&config()), table3(&config()), fig9(&config()), sweep(&config())].concat();
        all.dedup_by(|a, b| a.subject == b.subject);
        let mut seen: Vec<Subject> = Vec::new();
        for row in all {
            if !seen.contains(&row.subject) {
                seen.push(row.subject);
            }
        }
        let names: HashSet<String> = seen.iter().map(|subject| subject.name(0)).collect();
        assert_eq!(names.len(), seen.len());
    }

    #[test]
    fn tables_share_what_they_can() {
        let merged = |rows: &[Row], name: &str| rows.iter().find(|r| r.name == name).unwrap().subject.clone();
        let (one, nine) = (table1(&config()), fig9(&config()));
        assert_eq!(merged(&one, "DeMe, merged"), merged(&nine, "N = 4"));
        assert_eq!(merged(&nine, "p = 0.4"), merged(&nine, "N = 4"));
    }
}
