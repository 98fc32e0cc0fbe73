//! The table: what each was off in every story, over all seeds.

use std::ops::Range;
use std::path::Path;

use crate::trace::{self, STORIES, Story};

const WHO: [&str; 2] = ["firstlight", "chrony"];
/// A clock has arrived when it is nearer than this and stays so for a minute.
const NEAR: f64 = 0.005;

/// One figure of the table.
struct Figure {
    words: &'static str,
    digits: usize,
    /// Of the errors of one play, in seconds; `None` where it has no meaning.
    of: fn(&Story, &[f64]) -> Option<f64>,
}

const FIGURES: [Figure; 6] = [
    Figure { words: "below 5 ms after, s", digits: 0, of: |_, errors| Some(arrival(errors)) },
    Figure {
        words: "RMS from 1 to 30 min, ms",
        digits: 4,
        of: |story, errors| (story.seconds == 1800).then(|| rms(errors, 60..1800)),
    },
    Figure {
        words: "RMS from 1 min to the end, ms",
        digits: 4,
        of: |story, errors| (story.seconds > 1800).then(|| rms(errors, 60..errors.len())),
    },
    Figure {
        words: "most from 10 min to the end, ms",
        digits: 3,
        of: |_, errors| Some(most(errors, 600..errors.len())),
    },
    Figure {
        words: "at the end of the loss, ms",
        digits: 3,
        of: |story, errors| {
            let end = story.lost.end as usize;
            (end > 0).then(|| most(errors, end - 1..end))
        },
    },
    Figure {
        words: "most after the loss, ms",
        digits: 3,
        of: |story, errors| {
            let end = story.lost.end as usize;
            (end > 0).then(|| most(errors, end..errors.len()))
        },
    },
];

/// Prints the table of the plays in `folder`: each FOLDER/STORY/SEED/WHO holds an error for each second.
pub(crate) fn table(folder: &Path) {
    println!(
        "| story | figure | firstlight | chronyd | worst: firstlight | chronyd | firstlight nearer |"
    );
    println!("|---|---|---|---|---|---|---|");
    for story in &STORIES {
        let plays: Vec<[Vec<f64>; 2]> = (1..=story.seeds)
            .map(|seed| folder.join(story.name).join(seed.to_string()))
            .filter(|play| WHO.iter().all(|who| play.join(who).exists()))
            .map(|play| WHO.map(|who| trace::read(&play.join(who))))
            .collect();
        for figure in &FIGURES {
            let values = plays.iter().filter_map(|[ours, theirs]| {
                Some([(figure.of)(story, ours)?, (figure.of)(story, theirs)?])
            });
            let values: Vec<_> = values.collect();
            if values.is_empty() {
                continue;
            }
            let of = |who: usize| {
                let mut sorted: Vec<f64> = values.iter().map(|pair| pair[who]).collect();
                sorted.sort_by(f64::total_cmp);
                sorted
            };
            let show = |value: f64| format!("{value:.*}", figure.digits);
            let (ours, theirs) = (of(0), of(1));
            let nearer = values.iter().filter(|[ours, theirs]| ours < theirs).count();
            println!(
                "| {} | {} | {} | {} | {} | {} | {nearer} of {} |",
                story.words,
                figure.words,
                show(median(&ours)),
                show(median(&theirs)),
                show(ours[ours.len() - 1]),
                show(theirs[theirs.len() - 1]),
                values.len(),
            );
        }
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// The second from which on the error is small for a minute.
fn arrival(errors: &[f64]) -> f64 {
    let near = |window: &[f64]| window.iter().all(|error| error.abs() < NEAR);
    errors.windows(60).position(near).unwrap_or(errors.len()) as f64
}

fn rms(errors: &[f64], span: Range<usize>) -> f64 {
    let errors = &errors[span];
    let squares: f64 = errors.iter().map(|error| error * error).sum();
    1e3 * (squares / errors.len() as f64).sqrt()
}

fn most(errors: &[f64], span: Range<usize>) -> f64 {
    1e3 * errors[span].iter().fold(0.0, |most: f64, error| most.max(error.abs()))
}
