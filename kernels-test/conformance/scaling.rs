//! Dynamic loss scaling of training in f16: an overflow costs one update, the scale moves as GradScaler's, and what a checkpoint
//! keeps of it makes a resumed run the same run. Where the adapter has no cooperative matrices the same kernels run in f32, which
//! a large enough scale leaves as well. Called by `conformance.rs`.

use std::cell::RefCell;
use std::path::Path;

use super::training::Alone;
use deme::error::{Error, Result};
use deme::gpu::{Tuning, TuningFile};
use deme::shader::Precision;
use deme::train::checkpoint;
use deme::train::run::{Job, Watcher};
use deme::train::settings::LossScaling;
use deme::train::step::{Scaled, Trainer};
use serde_json::{Map, Value};

/// Beyond what squares in f32 can be summed of.
const HUGE: f32 = 1.267_650_6e30; // 2^100

fn alone(start: f32, interval: u32) -> Alone {
    let mut alone = Alone::at(Precision::F16);
    alone.settings.scaling = LossScaling { start, interval };
    alone
}

/// Every file of the folder with its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> =
        entries.map(|p| (p.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&p).unwrap())).collect();
    files.sort();
    files
}

/// Weights, average and moments, as a checkpoint has them.
fn saved(trainer: &Trainer) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    trainer.save(dir.path(), 0).unwrap();
    files(dir.path())
}

/// A trainer that goes on from another's state, with this report.
fn continued(alone: &Alone, from: &Trainer, status: &[u32]) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    from.save(dir.path(), 0).unwrap();
    let mut trainer = alone.trainer();
    trainer.load(dir.path(), &from.loss_sums().unwrap(), status).unwrap();
    trainer
}

#[test]
fn an_overflow_skips_that_update_alone_and_halves_the_scale() {
    let alone_at = alone(HUGE, 2000);
    let mut trainer = alone_at.trainer();
    let before = saved(&trainer);
    alone_at.update(&mut trainer, 0).unwrap();
    let status = trainer.check(1).unwrap();
    assert_eq!(status.scaled, Some(Scaled { skipped: 1, scale: f64::from(HUGE / 2.0) }));
    assert!(saved(&trainer) == before, "an update that was left out changed the state");
    // From here at a scale that fits, as if the first update had not been: nothing of its gradient is left, and neither bias
    // correction nor average count it.
    let mut bits = trainer.status().unwrap();
    (bits[4], bits[6]) = (1024f32.to_bits(), (1.0 / 1024f32).to_bits());
    let mut skipped = continued(&alone_at, &trainer, &bits);
    let other = alone(1024.0, 2000);
    let mut never = other.trainer();
    for (update, count) in [(1, 0), (2, 1)] {
        alone_at.update(&mut skipped, update).unwrap();
        (2 * update..2 * update + 2).for_each(|micro| never.micro_batch(&other.feed(micro)).unwrap());
        never.update(count).unwrap();
    }
    assert_eq!(skipped.check(3).unwrap().scaled, Some(Scaled { skipped: 1, scale: 1024.0 }));
    assert_eq!(never.check(2).unwrap().scaled, Some(Scaled { skipped: 0, scale: 1024.0 }));
    assert!(saved(&skipped) == saved(&never), "the update that was left out can be seen in the weights");
    assert!(saved(&never) != before, "nothing was learnt");
}

#[test]
fn powers_of_two_leave_no_trace() {
    let states = [1.0, 1024.0].map(|start| {
        let alone = alone(start, 2000);
        let mut trainer = alone.trainer();
        (0..2).for_each(|update| alone.update(&mut trainer, update).unwrap());
        (trainer.check(2).unwrap().gradient_norm, saved(&trainer))
    });
    // In cooperative matrices small gradients have more digits at the larger scale.
    if Alone::at(Precision::F16).gpu.limits().cooperative == 0 {
        assert!(states[0] == states[1], "scaling changed a bit");
    }
    assert!((states[0].0 / states[1].0 - 1.0).abs() < 1e-2, "norms {} and {}", states[0].0, states[1].0);
}

#[test]
fn the_scale_doubles_after_the_interval_and_a_checkpoint_keeps_the_count() {
    let alone = alone(1024.0, 3);
    let mut whole = alone.trainer();
    let mut scales = Vec::new();
    let mut resumed = None;
    for update in 0..7 {
        alone.update(&mut whole, update).unwrap();
        scales.push(whole.check(update + 1).unwrap().scaled.unwrap().scale);
        if update == 3 {
            resumed = Some(continued(&alone, &whole, &whole.status().unwrap()));
        }
    }
    assert_eq!(scales, [1024.0, 1024.0, 2048.0, 2048.0, 2048.0, 4096.0, 4096.0]);
    let mut resumed = resumed.unwrap();
    (4..7).for_each(|update| alone.update(&mut resumed, update).unwrap());
    assert_eq!(resumed.status().unwrap(), whole.status().unwrap());
    assert!(saved(&resumed) == saved(&whole));
    // A checkpoint without a report goes on with the first scale.
    let old = continued(&alone, &whole, &[]).check(7).unwrap();
    assert_eq!(old.scaled, Some(Scaled { skipped: 0, scale: 1024.0 }));
}

#[test]
fn a_gradient_that_no_scale_makes_finite_is_an_error() {
    let alone = alone(4.0, 2000);
    let mut trainer = alone.trainer();
    let before = saved(&trainer);
    let mut feed = alone.feed(0);
    feed.x_0[5] = f32::NAN;
    for update in 0..3 {
        trainer.micro_batch(&feed).unwrap();
        trainer.update(update).unwrap();
        let checked = trainer.check(update + 1);
        match update {
            2 => {
                let error = checked.unwrap_err();
                let expected = "the gradient itself, whatever the loss is multiplied by, is not finite at step 3";
                assert_eq!((error.to_string().as_str(), error.exit_code()), (expected, 7));
            }
            _ => assert_eq!(checked.unwrap().scaled.unwrap().skipped, update + 1),
        }
    }
    assert!(saved(&trainer) == before);
}

/// Notes what it is told, and stops after so many updates.
#[derive(Default)]
struct Notes {
    texts: Vec<String>,
    lines: Vec<Map<String, Value>>,
    stop_after: u64,
    step: RefCell<u64>,
}

impl Watcher for Notes {
    fn updated(&mut self, step: u64) {
        *self.step.borrow_mut() = step;
    }
    fn logged(&mut self, line: &Map<String, Value>) {
        self.lines.push(line.clone());
    }
    fn note(&mut self, text: &str) {
        self.texts.push(text.to_owned());
    }
    fn stop(&self) -> bool {
        *self.step.borrow() == self.stop_after
    }
    fn evaluate(&mut self, _: u64) -> Result<Value> {
        Ok(Value::Null)
    }
    fn sample(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn export(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

fn run(alone: &Alone, folder: &Path, stop_after: u64) -> (Result<()>, Notes) {
    let mut notes = Notes { stop_after, ..Notes::default() };
    let job = Job {
        settings: &alone.settings,
        objective: &alone.objective,
        feeder: &alone.feeder(),
        folder,
        settings_sha256: "s",
        device: "d",
        tuning: &Tuning::default(),
        record: &TuningFile { path: folder.join("tuning.json"), device: "d".into() },
    };
    let done = job.run(&mut alone.trainer(), &mut notes);
    (done, notes)
}

/// From three doublings above a scale that fits: the first updates are left out, said so and logged, and a run that is stopped
/// among them and resumed is the run that was not.
#[test]
fn a_run_tells_what_it_leaves_out_and_resumes_among_it() {
    let probe = alone(HUGE, 2000);
    let mut trainer = probe.trainer();
    let mut left_out = 0;
    let fits = loop {
        probe.update(&mut trainer, left_out).unwrap();
        let scaled = trainer.check(left_out + 1).unwrap().scaled.unwrap();
        if scaled.skipped == left_out {
            break scaled.scale as f32;
        }
        left_out = scaled.skipped;
    };
    let mut alone = alone(8.0 * fits, 2000);
    (alone.settings.steps, alone.settings.log_every, alone.settings.save_every) = (8, 2, 1);
    let dir = tempfile::tempdir().unwrap();
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    let (done, notes) = run(&alone, &whole, 0);
    done.unwrap();
    let number = |i: usize, key: &str| notes.lines[i][key].as_f64().unwrap();
    assert!(number(0, "left_out") == 2.0 && number(3, "left_out") >= 3.0, "{:?}", notes.lines);
    assert_eq!(number(0, "loss_scale"), f64::from(2.0 * fits));
    assert_eq!(number(3, "loss_scale"), f64::from(8.0 * fits) / 2f64.powf(number(3, "left_out")));
    let first = format!("2 updates left out: gradient beyond f16, scale of the loss now {}", f64::from(2.0 * fits));
    assert_eq!(notes.texts[0], first);
    assert!(notes.texts[1].starts_with("1 update left out: gradient beyond f16"), "{:?}", notes.texts);
    for stop_after in [1, 2, 5] {
        let interrupted = run(&alone, &stopped, stop_after).0;
        assert!(matches!(interrupted, Err(Error::Interrupted { .. })), "{interrupted:?}");
    }
    run(&alone, &stopped, 0).0.unwrap();
    let essence = |folder: &Path| {
        let newest = checkpoint::latest(folder, &mut Vec::new()).unwrap().unwrap();
        (files(&newest.folder), std::fs::read(folder.join("metrics.jsonl")).unwrap())
    };
    assert!(essence(&whole) == essence(&stopped), "a run that was resumed is another run");
}
