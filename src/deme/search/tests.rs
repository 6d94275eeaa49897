//! All methods on losses whose minimum is known: they find it, stay in the bounds, continue bit for bit.

use super::*;
use std::path::Path;

const GRID: Grid = Grid { low: -0.5, high: 1.0, step: 0.5, fine: 0.25 };
const METHODS: [Method; 5] = [Method::Grid, Method::Coordinate, Method::Cma, Method::Quadratic, Method::Gradient];

/// 1 + bowl(w) + the pair's own number; the bowl's axes are tilted and it is not quite a quadratic.
struct Bowl {
    at: Vec<f64>,
    calls: usize,
    stop_after: usize,
}

impl Bowl {
    fn new(at: &[f64]) -> Self {
        Self { at: at.to_vec(), calls: 0, stop_after: usize::MAX }
    }

    fn value(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let x: Vec<f64> = w.iter().zip(&self.at).map(|(w, a)| w - a).collect();
        let tilt: f64 = x.iter().sum();
        let loss = x.iter().map(|x| x * x + 0.1 * x.powi(4)).sum::<f64>() + 0.5 * tilt * tilt;
        (1.0 + loss, x.iter().map(|x| 2.0 * x + 0.4 * x.powi(3) + tilt).collect())
    }
}

impl Objective for Bowl {
    fn losses(&mut self, w: &[f64]) -> Result<Vec<f64>> {
        Ok(self.losses_and_gradient(w)?.0)
    }

    fn losses_and_gradient(&mut self, w: &[f64]) -> Result<(Vec<f64>, Vec<f64>)> {
        if self.calls == self.stop_after {
            return Err(Error::usage("stopped", ""));
        }
        self.calls += 1;
        let (loss, gradient) = self.value(w);
        Ok(((0..4).map(|i| loss + f64::from(i) - 1.5).collect(), gradient))
    }
}

fn header() -> Header {
    Header { identity: "a".into() }
}

fn settings(method: Method, n: usize) -> Settings {
    let cma = Cma { sigma: 1.0 / 6.0, population: None, seed: 0 };
    Settings { method, grid: GRID, candidates: usual_candidates(method, n), cma }
}

fn run(method: Method, objective: &mut Bowl, path: &Path) -> Result<Candidate> {
    let n = objective.at.len();
    let mut table = Table::open(path, &header())?;
    search(&settings(method, n), [n, n], objective, &[0, 1, 2, 3], &mut table, &mut |_, _, _| Ok(()))
}

#[test]
fn every_method_finds_the_bowl() {
    for method in METHODS {
        let dir = tempfile::tempdir().unwrap();
        let mut bowl = Bowl::new(&[0.3, -0.2, 0.45]);
        let best = run(method, &mut bowl, &dir.path().join("t.jsonl")).unwrap();
        // The grid's nearest point is 0.05 off everywhere; CMA-ES has few candidates.
        let near = match method {
            Method::Grid | Method::Coordinate => 0.011,
            Method::Cma => 0.01,
            Method::Quadratic => 1e-3,
            Method::Gradient => 1e-6,
        };
        assert!(best.loss - 1.0 < near, "{method:?}: {best:?}");
        assert!(best.difference < 0.0 && best.difference_error.0.unwrap() < 1e-12);
        assert_eq!(best.gradient.is_some(), method == Method::Gradient);
    }
}

#[test]
fn the_grid_takes_the_nearest_point_and_coordinates_take_fewer_candidates() {
    let dir = tempfile::tempdir().unwrap();
    let [mut whole, mut lines] = [Bowl::new(&[0.3, -0.2, 0.45]), Bowl::new(&[0.3, -0.2, 0.45])];
    let grid = run(Method::Grid, &mut whole, &dir.path().join("grid.jsonl")).unwrap();
    let coordinate = run(Method::Coordinate, &mut lines, &dir.path().join("lines.jsonl")).unwrap();
    assert_eq!(grid.w, [0.25, -0.25, 0.5]);
    assert_eq!(coordinate.w, grid.w);
    assert!(lines.calls < whole.calls / 2, "{} and {}", lines.calls, whole.calls);
}

#[test]
fn minima_outside_the_bounds_end_on_them() {
    for method in METHODS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let best = run(method, &mut Bowl::new(&[2.0, -0.1]), &path).unwrap();
        assert!((best.w[0] - 1.0).abs() <= 1e-9, "{method:?}: {best:?}");
        let table = Table::open(&path, &header()).unwrap();
        let inside = |w: &f64| (GRID.low - QUANTUM..=GRID.high + QUANTUM).contains(w);
        assert!(table.rows.iter().all(|r| r.w.iter().all(inside)), "{method:?}");
    }
}

#[test]
fn a_stopped_search_continues_bit_for_bit_and_a_torn_line_is_dropped() {
    for (method, early) in METHODS.into_iter().flat_map(|method| [(method, true), (method, false)]) {
        let dir = tempfile::tempdir().unwrap();
        let (whole, part) = (dir.path().join("whole.jsonl"), dir.path().join("part.jsonl"));
        let at = [0.3, -0.2];
        let mut bowl = Bowl::new(&at);
        let best = run(method, &mut bowl, &whole).unwrap();
        let (all, stop) = (bowl.calls, if early { 4 } else { bowl.calls - 1 });
        let mut stopped = Bowl { stop_after: stop, ..Bowl::new(&at) };
        assert!(run(method, &mut stopped, &part).is_err(), "{method:?}");
        let mut text = std::fs::read_to_string(&part).unwrap();
        assert_eq!(text.lines().count(), 1 + stop);
        text.push_str("{\"w\": [0.");
        std::fs::write(&part, text).unwrap();
        let mut rest = Bowl::new(&at);
        assert_eq!(run(method, &mut rest, &part).unwrap(), best);
        assert_eq!(std::fs::read(&part).unwrap(), std::fs::read(&whole).unwrap(), "{method:?}");
        // The base is what all are compared with, so it is judged anew.
        assert_eq!(rest.calls, all - stop + 1, "{method:?}");
        assert!(Table::open(&part, &Header { identity: "b".into() }).is_err());
    }
}

#[test]
fn fresh_noise_says_who_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    run(Method::Quadratic, &mut Bowl::new(&[0.5]), &path).unwrap();
    let mut table = Table::open(&path, &header()).unwrap();
    let searched = table.rows.clone();
    let first = table.ranked(false)[0].w.clone();
    // With fresh noise, lower weights are better than the search thought.
    let mut fresh = Bowl::new(&[0.1]);
    let winner = elite(3, &mut fresh, &[0, 1, 2, 3], &mut table, &mut |_, _, _| Ok(())).unwrap();
    assert!(winner.fresh && winner.w[0] < first[0] && fresh.calls == 1 + 3, "{winner:?}");
    assert_eq!(table.rows[..searched.len()], searched);
    assert_eq!(table.passes(), [searched.len() as u64, 4]);
    // An objective under which the search was all wrong: the base wins.
    let mut wrong = Bowl::new(&[-5.0]);
    let other = dir.path().join("o.jsonl");
    run(Method::Quadratic, &mut Bowl::new(&[0.5]), &other).unwrap();
    let mut table = Table::open(&other, &header()).unwrap();
    assert_eq!(elite(2, &mut wrong, &[0, 1, 2, 3], &mut table, &mut |_, _, _| Ok(())).unwrap().w, [0.0]);
}

/// A table of the first versions, whose rows had neither gradients nor fresh noise.
#[test]
fn old_tables_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let row = r#"{"w":[0.5],"loss":0.25,"difference":-0.125,"difference_error":null}"#;
    std::fs::write(&path, format!("{{\"identity\":\"a\"}}\n{row}\n")).unwrap();
    let table = Table::open(&path, &header()).unwrap();
    assert_eq!((table.rows.len(), table.passes()), (1, [1, 0]));
    assert_eq!(serde_json::to_string(&table.rows[0]).unwrap(), row);
}
