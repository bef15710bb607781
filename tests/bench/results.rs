//! Figures by row and contender, and the tables that are made of them: medians, and how each contender
//! compares with cairnfs in the same run.

use std::collections::BTreeMap;

use crate::measure::{Cost, median};
use crate::table::Table;

#[derive(Clone, Copy, PartialEq)]
pub enum Better {
    Less,
    More,
}

/// What the others are compared with.
const OURS: &str = "cairnfs";
const FLOOR: &str = "floor";

#[derive(Default)]
struct Row {
    more_is_better: bool,
    /// By contender, then by run.
    figures: BTreeMap<&'static str, BTreeMap<usize, f64>>,
}

#[derive(Default)]
pub struct Results {
    /// The run that is going on.
    pub run: usize,
    titles: Vec<String>,
    rows: BTreeMap<String, Row>,
    cpu_titles: Vec<String>,
    cpu: BTreeMap<String, Row>,
}

impl Results {
    pub fn add(&mut self, who: &'static str, title: &str, better: Better, figure: Option<f64>) {
        let Some(figure) = figure else {
            return;
        };
        if !self.rows.contains_key(title) {
            self.titles.push(title.to_owned());
        }
        let row = self.rows.entry(title.to_owned()).or_default();
        row.more_is_better = better == Better::More;
        row.figures.entry(who).or_default().insert(self.run, figure);
    }

    /// What was added for a contender in this run.
    pub fn figure(&self, who: &str, title: &str) -> Option<f64> {
        self.rows.get(title)?.figures.get(who)?.get(&self.run).copied()
    }

    /// Seconds to the one table, CPU seconds to the other.
    pub fn add_cost(&mut self, who: &'static str, title: &str, cost: Option<Cost>) {
        if let Some(cost) = cost {
            let row = format!("{title}, s");
            self.add(who, &row, Better::Less, Some(cost.seconds));
            self.add_cpu(who, title, cost.cpu);
        }
    }

    fn add_cpu(&mut self, who: &'static str, title: &str, seconds: f64) {
        if !self.cpu.contains_key(title) {
            self.cpu_titles.push(title.to_owned());
        }
        let row = self.cpu.entry(title.to_owned()).or_default();
        row.figures.entry(who).or_default().insert(self.run, seconds);
    }

    pub fn table(&self, name: &str, contenders: &[&'static str]) -> Table {
        table(name, contenders, &self.titles, &self.rows)
    }

    pub fn cpu_table(&self, contenders: &[&'static str]) -> Table {
        table("CPU seconds", contenders, &self.cpu_titles, &self.cpu)
    }

    /// cairnfs's speed in each row as a fraction of the floor's.
    pub fn fractions(&self) -> Option<Table> {
        let mut table = Table::new(["cairnfs as a fraction of the floor", "speed"]);
        let mut any = false;
        let timed = |title: &&String| title.ends_with(", s") || title.ends_with(", /s");
        for title in self.titles.iter().filter(timed) {
            let row = &self.rows[title];
            if let Some(ratio) = row.ratio(OURS, FLOOR) {
                let speed = if row.more_is_better { ratio } else { 1.0 / ratio };
                table.row([title.clone(), format!("{speed:.2}")]);
                any = true;
            }
        }
        any.then_some(table)
    }

    /// Everything measured, for other programs.
    pub fn json(&self) -> serde_json::Value {
        let rows = |titles: &[String], rows: &BTreeMap<String, Row>| {
            let rows = titles
                .iter()
                .map(|title| serde_json::json!({ "row": title, "figures": rows[title].figures }));
            serde_json::Value::Array(rows.collect())
        };
        serde_json::json!({
            "figures": rows(&self.titles, &self.rows),
            "cpu seconds": rows(&self.cpu_titles, &self.cpu),
        })
    }
}

impl Row {
    fn median(&self, who: &str) -> Option<f64> {
        let figures = self.figures.get(who)?;
        median(&figures.values().copied().collect::<Vec<_>>())
    }

    /// The median of the ratios of the same run, which noise touches less than the ratio of medians.
    fn ratio(&self, who: &str, to: &str) -> Option<f64> {
        let (ours, theirs) = (self.figures.get(who)?, self.figures.get(to)?);
        let ratios: Vec<f64> = ours
            .iter()
            .filter_map(|(run, ours)| Some(ours / theirs.get(run).filter(|f| **f > 0.0)?))
            .collect();
        median(&ratios)
    }
}

fn table(name: &str, contenders: &[&'static str], titles: &[String], rows: &BTreeMap<String, Row>) -> Table {
    let mut header = vec![name];
    header.extend(contenders);
    let mut table = Table::new(header);
    for title in titles {
        let row = &rows[title];
        let mut cells = vec![title.clone()];
        for who in contenders {
            let figure = row.median(who).map_or("-".into(), shown);
            let ratio = row.ratio(who, OURS).filter(|_| *who != OURS);
            cells.push(match ratio {
                Some(ratio) => format!("{figure} ({ratio:.2}x)"),
                None => figure,
            });
        }
        table.row(cells);
    }
    table
}

/// Three figures that mean something.
fn shown(figure: f64) -> String {
    match figure {
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}
