//! The filesystem in one process, without a mount: against a model that is simpler than it, over a disk that loses
//! power at every write, and with a collector that is held at every point of its cycle.

mod advisory;
mod classes;
mod clocks;
mod counts;
mod damage;
mod deleted;
mod elsewhere;
mod faults;
mod full;
mod fuzz;
mod golden;
mod growth;
mod heal;
mod model;
mod power;
mod power_repair;
mod protect;
mod races;
mod random;
mod repair;
mod repair_gaps;
mod resume;
mod scrub;
mod seed;
mod structure;
mod structure_files;
mod structure_skips;
mod structure_switches;
mod structure_table;
mod sweep;
mod told;
mod twins;
mod unread;
mod views;
mod world;
