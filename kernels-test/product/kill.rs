//! kill -9 at any moment loses nothing: the resumed run ends with the bits of the run that was not killed.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use deme::rng;

use super::resume::wait_for;
use super::train::{Place, SAVE_EVERY, STEPS, assert_same, newest, saving};

/// Kills of each kind: a third of all are inside a save.
const INSIDE_A_SAVE: usize = 8;
const BETWEEN_EXPERTS: usize = 1;
const ANY_TIME: usize = 11;
/// These in a run whose updates are nearly all accumulation.
const MID_ACCUMULATION: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    InsideASave,
    BetweenExperts,
    AnyTime,
}

/// Lets the child come to the moment and kills it. False where it ended before, or the moment was missed.
fn kill_at(child: &mut Child, run: &Path, moment: Moment, number: u64, whole: Duration) -> bool {
    let random = |index: u64| rng::uniform(17, number, index);
    let before = [newest(run, 0), newest(run, 1)];
    // Random progress first, so that not every kill hits the first opportunity.
    let skip = (random(0) * (STEPS / SAVE_EVERY) as f64) as u64 * SAVE_EVERY;
    let expert = || u32::from(run.join("expert_0").exists());
    let reached = match moment {
        Moment::AnyTime => {
            let delay = whole.mul_f64(random(1));
            let start = Instant::now();
            wait_for(child, || start.elapsed() > delay)
        }
        Moment::InsideASave => wait_for(child, || {
            let i = expert();
            saving(run, i)
                && newest(run, i).unwrap_or(0) >= before[i as usize].unwrap_or(0).max(skip.min(STEPS - SAVE_EVERY))
        }),
        Moment::BetweenExperts => wait_for(child, || run.join("expert_0").exists() && newest(run, 1).is_none()),
    };
    if !reached || child.try_wait().unwrap().is_some() {
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    match moment {
        Moment::InsideASave => saving(run, 0) || saving(run, 1),
        Moment::BetweenExperts => newest(run, 1).is_none(),
        Moment::AnyTime => true,
    }
}

#[test]
fn twenty_kills_lose_nothing() {
    let place = Place::new();
    let start = Instant::now();
    place.finetune("whole", &[]).exits(0);
    let whole = start.elapsed();
    let expected = place.essence("whole");
    let mut left: Vec<Moment> =
        [(Moment::BetweenExperts, BETWEEN_EXPERTS), (Moment::InsideASave, INSIDE_A_SAVE), (Moment::AnyTime, ANY_TIME)]
            .into_iter()
            .flat_map(|(moment, times)| std::iter::repeat_n(moment, times))
            .collect();
    let (mut attempt, mut kills, mut runs) = (0u64, 0, 0);
    while !left.is_empty() {
        let name = format!("killed_{runs}");
        let run = place.run(&name);
        // A run is killed until it ends by itself, at most five times.
        for _ in 0..5 {
            let Some(&moment) = left.get(attempt as usize % left.len().max(1)) else { break };
            attempt += 1;
            let mut child = place.start(&name, &["--resume"]);
            if kill_at(&mut child, &run, moment, attempt, whole) {
                let at = left.iter().position(|m| *m == moment).unwrap();
                left.swap_remove(at);
                kills += 1;
            } else if child.wait().unwrap().success() {
                break;
            }
        }
        place.finetune(&name, &["--resume"]).exits(0);
        assert_same(&place.essence(&name), &expected);
        std::fs::remove_dir_all(&run).unwrap();
        runs += 1;
        assert!(attempt < 200, "{left:?} cannot be hit");
    }
    println!("{kills} kills in {runs} runs, {attempt} attempts");
    assert_eq!(kills, INSIDE_A_SAVE + BETWEEN_EXPERTS + ANY_TIME);
    assert!(kills >= 20);
}

/// Updates in the log of expert 0, which gets a line an update.
fn logged(run: &Path) -> u64 {
    let log = std::fs::read_to_string(run.join("training/expert_0/metrics.jsonl")).unwrap_or_default();
    log.lines().count() as u64
}

#[test]
fn kills_inside_an_accumulation_lose_nothing() {
    let place = Place::new();
    // Each update is logged and saved, so that between a save and the next line there is accumulation and little else.
    let more = ["--range", "0", "--accumulate", "40", "--log-every", "1", "--save-every", "1"];
    let more = [more.as_slice(), &["--eval-every", "0", "--sample-every", "0", "--resume"]].concat();
    let start = Instant::now();
    place.finetune("whole", &more).exits(0);
    let update = start.elapsed() / STEPS as u32;
    let run = place.run("killed");
    let mut hit = 0;
    for attempt in 0..40 {
        let from = newest(&run, 0);
        let mut child = place.start("killed", &more);
        if !wait_for(&mut child, || newest(&run, 0) > from) {
            break;
        }
        let saved = newest(&run, 0);
        std::thread::sleep(update.mul_f64(0.6 * rng::uniform(19, 0, attempt)));
        child.kill().unwrap();
        child.wait().unwrap();
        // Inside: nothing was being saved, and the next update had not come to its line yet.
        if newest(&run, 0) == saved && !saving(&run, 0) && Some(logged(&run)) == saved {
            hit += 1;
        }
        if hit == MID_ACCUMULATION {
            break;
        }
    }
    assert_eq!(hit, MID_ACCUMULATION, "kills inside an accumulation");
    place.finetune("killed", &more).exits(0);
    assert_same(&place.essence("killed"), &place.essence("whole"));
}
