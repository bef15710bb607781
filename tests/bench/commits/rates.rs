//! What can be made durable in a second: files by some writers, transactions of SQLite, commits of git.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::measure::{Outcome, median, output, timed};
use crate::options::Run;
use crate::place::Place;
use crate::random::Random;
use crate::table::Table;

const FILE: usize = 4096;

/// Prints how many seconds its transactions took: one row of 100 bytes each.
const SQLITE: &str = "
import os, sqlite3, sys, time
path, times = os.path.join(sys.argv[1], 'database'), int(sys.argv[2])
db = sqlite3.connect(path, isolation_level=None)
db.execute('pragma journal_mode=wal')
db.execute('pragma synchronous=full')
db.execute('create table t(id integer primary key, value blob)')
began = time.monotonic()
for _ in range(times):
    db.execute('insert into t(value) values(?)', (os.urandom(100),))
print(time.monotonic() - began)
db.close()
";

const GIT: &str = r#"
cd "$0" && git init -q . 2>/dev/null
for number in $(seq "$1"); do
    echo "$number" > file && git add file &&
    git -c user.name=bench -c user.email=bench@localhost commit -q -m "$number" || exit 1
done
"#;

/// Does something many times in an empty directory; how often a second.
type Rate = Box<dyn Fn(&Path) -> Outcome<f64>>;

struct Load {
    what: String,
    rate: Rate,
}

pub fn measure(run: &Run, places: &[Place]) -> Outcome<()> {
    let loads = loads(run);
    // By load, place and round.
    let mut rates = vec![vec![Vec::new(); places.len()]; loads.len()];
    for round in 0..run.rounds {
        for (load, rates) in loads.iter().zip(&mut rates) {
            for turn in 0..places.len() {
                let number = (turn + round) % places.len();
                let dir = places[number].dir.join("load");
                let fail = |e: std::io::Error| format!("{}: {e}", dir.display());
                std::fs::create_dir(&dir).map_err(fail)?;
                rates[number].push((load.rate)(&dir)?);
                std::fs::remove_dir_all(&dir).map_err(fail)?;
            }
        }
    }
    let header = ["a second".to_owned()].into_iter().chain(places.iter().map(|place| place.name.clone()));
    let mut table = Table::new(header);
    for (load, rates) in loads.iter().zip(&rates) {
        let cells = rates.iter().enumerate().map(|(number, own)| {
            let rate = median(own).unwrap_or(0.0);
            let ratios: Vec<f64> = own.iter().zip(&rates[0]).map(|(own, host)| own / host).collect();
            match (number, median(&ratios)) {
                (1.., Some(ratio)) => format!("{rate:.0} ({ratio:.2})"),
                _ => format!("{rate:.0}"),
            }
        });
        table.row([load.what.clone()].into_iter().chain(cells));
    }
    println!("\nIn brackets: the median of the ratios to the host in each round.\n\n{table}");
    Ok(())
}

fn loads(run: &Run) -> Vec<Load> {
    let (count, transactions, commits) = (run.files, run.transactions, run.commits);
    let mut loads: Vec<Load> = [1, 4, 16]
        .into_iter()
        .map(|writers| Load {
            what: format!("files of 4 KiB with an fsync each, writers: {writers}"),
            rate: Box::new(move |dir| files(dir, writers, count)),
        })
        .collect();
    loads.push(Load {
        what: "SQLite transactions (WAL, synchronous=FULL)".to_owned(),
        rate: Box::new(move |dir| sqlite(dir, transactions)),
    });
    loads.push(Load {
        what: "git commits of one file".to_owned(),
        rate: Box::new(move |dir| {
            let mut git = Command::new("bash");
            git.args(["-c", GIT]).arg(dir).arg(commits.to_string());
            timed(|| output(&mut git)).map(|(_, seconds)| commits as f64 / seconds)
        }),
    });
    loads
}

fn files(dir: &Path, writers: u64, count: u64) -> Outcome<f64> {
    let each = count / writers;
    let write = |writer: u64| {
        let mut random = Random::new(writer + 1);
        let own = dir.join(writer.to_string());
        std::fs::create_dir(&own).map_err(|e| format!("{}: {e}", own.display()))?;
        (0..each).try_for_each(|number| durable_file(&own.join(number.to_string()), &mut random))
    };
    let ((), seconds) = timed(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a writer panicked".into())))
        })
    })?;
    Ok((each * writers) as f64 / seconds)
}

/// Makes a file that does not compress, and waits until it is durable.
pub fn durable_file(path: &Path, random: &mut Random) -> Outcome<()> {
    let mut data = [0; FILE];
    random.fill(&mut data);
    let made = File::create(path).and_then(|mut file| file.write_all(&data).and_then(|()| file.sync_all()));
    made.map_err(|e| format!("{}: {e}", path.display()))
}

fn sqlite(dir: &Path, transactions: u64) -> Outcome<f64> {
    let mut python = Command::new("python3");
    let seconds = output(python.args(["-c", SQLITE]).arg(dir).arg(transactions.to_string()))?;
    let seconds: f64 = seconds.parse().map_err(|_| format!("python3 said {seconds}"))?;
    Ok(transactions as f64 / seconds)
}
