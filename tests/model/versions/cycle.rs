//! The commit, and the cycle of the collector with its barrier.

use super::protocol::{Act, Mutant, Store};
use super::rows::*;
use super::state::*;

pub fn actions(s: &State, out: &mut Vec<Act>) {
    if s.is_sealed {
        if !s.is_draining() {
            out.push(Act::Commit);
        }
    } else if s.left.seals > 0 && (!s.open.is_empty() || s.busy().next().is_some()) {
        out.push(Act::Seal);
    }
    match s.cycle.stop {
        Stop::Idle if s.left.cycles > 0 && !s.is_sealed => out.push(Act::Flip),
        Stop::Flipped if !s.is_sealed => out.push(Act::Mark),
        Stop::Marked => out.push(Act::Condemn),
        Stop::Condemned => out.push(Act::Sweep),
        Stop::Swept if !s.is_sealed => out.push(Act::End),
        Stop::Ending if !s.is_sealed => out.push(Act::Disarm),
        _ => {}
    }
}

pub fn step(store: &Store, s: &mut State, act: Act) {
    match act {
        Act::Seal => {
            s.left.seals -= 1;
            s.swap();
        }
        Act::Commit => {
            s.commit();
            let before = s.noted;
            s.noted = s.next;
            if store.lacks(Mutant::SharedNumber) {
                s.noted.version = before.version;
            }
        }
        Act::Flip => {
            s.left.cycles -= 1;
            s.swap();
            s.cycle = Cycle { stop: Stop::Flipped, watermark: s.next.chunk, ..Cycle::IDLE };
        }
        Act::Mark => {
            // The snapshot is one of the database, after a fold.
            s.disk = s.db;
            let named = s.db.contents().flat_map(|(_, _, content)| chunks(content));
            let below = named.filter(|id| *id < s.cycle.watermark).fold(0, |all, id| all | 1 << id);
            s.cycle.marked |= below;
            s.cycle.stop = Stop::Marked;
        }
        Act::Condemn => {
            let white = |id: &u8| s.db.has(chunk(*id)) && s.cycle.marked >> id & 1 == 0;
            s.cycle.condemned = (1..s.cycle.watermark).filter(white).fold(0, |all, id| all | 1 << id);
            s.cycle.stop = Stop::Condemned;
        }
        Act::Sweep => {
            (1..CHUNKS as u8)
                .filter(|id| s.cycle.condemned >> id & 1 == 1)
                .for_each(|id| s.db.delete(chunk(id)));
            s.disk = s.db;
            s.cycle.stop = Stop::Swept;
        }
        Act::End => {
            s.swap();
            s.cycle.stop = Stop::Ending;
        }
        Act::Disarm => s.cycle = Cycle::IDLE,
        _ => unreachable!("no step of commit or cycle: {act:?}"),
    }
}
