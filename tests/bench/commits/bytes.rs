//! What one commit brings to the disk, and how often it flushes it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::image::Image;
use crate::measure::{Outcome, median};
use crate::options::Run;
use crate::place::Place;
use crate::random::Random;
use crate::rates::durable_file;
use crate::table::Table;

/// Commits that are looked at one by one.
const SINGLE: u64 = 201;

/// Makes the commit with this number durable.
type Load<'a> = (&'a str, &'a mut dyn FnMut(u64) -> Outcome<()>);

pub fn measure(run: &Run, image: &Image, places: &[Place]) -> Outcome<()> {
    let header =
        ["a commit of", "in", "bytes", "flushes", "bytes, folds included", "flushes, folds included"];
    let mut table = Table::new(header);
    for place in places {
        let dir = place.dir.join("bytes");
        std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let row = dir.join("row");
        File::create(&row).and_then(|file| file.sync_all()).map_err(|e| format!("{}: {e}", row.display()))?;
        let mut random = Random::new(7);
        let loads: [Load<'_>; 2] = [
            ("one row", &mut |number| one_row(&row, number)),
            ("a new file of 4096 bytes", &mut |number| {
                durable_file(&dir.join(number.to_string()), &mut random)
            }),
        ];
        for (what, load) in loads {
            let cells = counted(run, image, load)?.map(|figure| format!("{figure:.1}"));
            table.row([what.to_owned(), place.name.clone()].into_iter().chain(cells));
        }
    }
    println!("\nThe first two figures are medians of single commits, the others means of many.\n\n{table}");
    Ok(())
}

fn counted(run: &Run, image: &Image, load: &mut dyn FnMut(u64) -> Outcome<()>) -> Outcome<[f64; 4]> {
    let (mut bytes, mut flushes) = (Vec::new(), Vec::new());
    for number in 0..SINGLE {
        let before = image.counts()?;
        load(number)?;
        let after = image.counts()?;
        bytes.push((after.bytes - before.bytes) as f64);
        flushes.push((after.flushes - before.flushes) as f64);
    }
    let before = image.counts()?;
    (SINGLE..SINGLE + run.files).try_for_each(load)?;
    let after = image.counts()?;
    let each = |sum: u64| sum as f64 / run.files as f64;
    let middle = |figures: &[f64]| median(figures).unwrap_or(0.0);
    let means = (each(after.bytes - before.bytes), each(after.flushes - before.flushes));
    Ok([middle(&bytes), middle(&flushes), means.0, means.1])
}

/// Changes a mode and waits until that is durable.
fn one_row(file: &Path, number: u64) -> Outcome<()> {
    let mode = Permissions::from_mode(if number.is_multiple_of(2) { 0o600 } else { 0o640 });
    let changed = std::fs::set_permissions(file, mode).and_then(|()| File::open(file)?.sync_all());
    changed.map_err(|e| format!("{}: {e}", file.display()))
}
