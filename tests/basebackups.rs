//! Base backups: taken, written through the mount, browsed, restored (promise B1 to B4, B6, B7).

// Copied by hand, with every PostgreSQL's names of functions.
mod by_example;
// As old as where they end, whenever they were stored.
mod aging;
// Timelines that fork while their parent goes on: named, chosen, followed.
mod branching;
// What becomes of the settings of a backup, and of a recovery.
mod configuring;
// Complete backups read in the mount, by every tool that reads files.
mod browsing;
// Copied by hand, with links, of running servers and stopped ones.
mod by_hand;
// Read by `walfs backup` while its files shrink, vanish and grow.
mod changing;
// Read from one end to the other: few requests, and what was fetched ahead.
mod in_order;
// Times that are a bound only, or of a clock that was wrong.
mod clocks;
// PostgreSQL's incremental backups, and what they are to be combined with.
mod combined;
// What a later backup stores, and what it is.
mod incremental;
// What pg_receivewal has brought and recovery does not replay: said.
mod received;
// Damaged in every way, and restored all the same, or not at all.
mod damaging;
// Which trees there are, whatever happens to those who make them.
mod catalogue;
// Histories of timelines that are damaged or lost.
mod histories;
// What the server needs behind links, and settings elsewhere.
mod links;
// Settings that the server does not read, kept and put back.
mod locking;
mod memory;
mod settings_back;
// Reading of complete backups, without the kernel: requests and damage.
mod reading;
// Taken of a standby of an idle primary, or where no WAL comes.
mod standbys;
// Told that it is not done, kept until the operator says otherwise.
mod keeping;
// Swept, discarded and removed by others meanwhile: complete is said of what is there.
mod opening;
// What `walfs prune` removes, killed, beside backups, and with pins.
mod others;
mod prune_model;
mod pruning;
mod pruning_beside;
mod status;
// How often a mount looks at the archive for who reads its status.
mod looks;
mod stopped;
mod swept;
// Taken by `walfs backup`, brought back by stock tools, started.
mod taking;
// Taken of a server that was put back by pg_rewind.
mod rewound;
// What the archived WAL says of itself, and targets that it does not reach.
mod reaching;
// Brought back where the way is not straight: gaps, standbys, owners, two at once, closed archives.
mod recovering;
// Brought back by `walfs restore`, recovered, resumed, refused.
mod restoring;
// Taken although bytes have moved in its files: named, and nothing else.
mod moved_bytes;
// PostgreSQL's own tools on what is in the mount.
mod tools;
// All ways to take one and all ways back, with every PostgreSQL.
mod tour;
// Writing through the mount into a store that hangs, refuses or is slow, and out of local space.
mod stalling;
// What the tests of writing stand on.
mod misled;
mod mounted;
// Written through the mount, and not as the backup's own manifest says.
mod verifying;
// Written through the mount: by pg_basebackup in all its ways, cp, tar, rsync; killed, and with a store that fails.
mod writing;
mod written_again;
// Begun, killed, and removed by one word.
mod unsynced;
// Taken of a server that lets in by TLS only.
mod secured;
// Brought back from archives and over directories that lead elsewhere by links.
mod restoring_safely;
// Brought back over WAL that is nowhere else, to disks of its own, for a group to read.
mod restoring_over;
// Brought back over WAL that is not archived and has a hole, lies behind a link or under another name.
mod restoring_kept;
// Brought back where the WAL ends, or goes on, with the beginning of a segment.
mod beginnings;
// Brought back over a .partial, which the archive has or has not.
mod restoring_partials;
// Brought back while somebody puts links and other directories in the place of the target.
mod restoring_swapped;
// Brought back from backups that are not what they say.
mod restoring_forged;
// Damaged in every way, and told: what, and what it costs.
mod read_back;
// What was found damaged, and who knows of it.
mod found;
// Where recovery comes through archived WAL.
mod leading;
// What pins and prunes say: damaged, forged, of nothing.
mod words;
// A second archive elsewhere: what it lacks, and nothing else.
mod copied;
