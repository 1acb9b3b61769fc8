//! Rules broken on purpose, around the machines and never inside them: each has to be found, or
//! the simulation would not notice if the rule were forgotten.

/// What is broken in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The collector replies, then its transaction is rolled back now and then.
    AckBeforeCommit,
    /// Reading a counter sets it to zero; the driver adds up in memory.
    ResetOnRead,
    /// The incarnation is taken to be the same before and after a read.
    NoSandwich,
    /// Removing a peer forgets its books, on disk, while its counter lives on.
    BaselineDroppedWithUser,
    /// A new disk takes every counter from zero instead of from the collector's mark.
    BaselineFromZero,
    /// The sample before a removal is an older one.
    NoFinalRead,
    /// A local transaction may be half written in a crash.
    TornLocalWrite,
    /// A batch that was sent grows.
    MergeOfSentBatch,
    /// The epoch of the start before is used again.
    EpochKeptAcrossStart,
    /// A batch sent again is encoded anew.
    ReencodedResend,
    /// The collector bills by the node's multiplier of the moment.
    MultiplierAtCommit,
    /// The collector takes the generation of a stream for the node's newest.
    FenceSkipped,
    /// What a silent node holds is given to others after a while.
    LeaseFreedByTime,
    /// That a command was seen is not written down before it is done.
    CommandNotDurable,
    /// Now and then the change log is read past a change that commits later.
    LogOvertaken,
    /// The period after the next takes the id of one that is over.
    PeriodIdReused,
    /// What a node may let through is taken for raw bytes there.
    LeaseInRawUnits,
    /// Nothing is charged for what a dead engine let through unread.
    EngineDeathRefunds,
    /// Grants are made before the restore barrier is down.
    GrantsBeforeBarrier,
    /// An answer to any version of a lease frees.
    UnversionedGiveBack,
    /// A restored database goes on with the numbers that its former life has drawn.
    EpochNotBumped,
    /// Two histories of one disk are taken for one.
    ForkNotFound,
    /// A node's clock is the one that anybody may set.
    TimeByWallClock,
    /// The leases of a node that was written off are forgotten.
    WriteOffForgets,
    /// What passed one engine does not lower the other's gate.
    OtherEngineForgotten,
    /// Counters of an engine that could not be read are handed over as an empty sample.
    FailedReadIsEmpty,
    /// A node has reported what it holds, whether or not the reports are still on record.
    LostReportsOverlooked,
}

impl Mutation {
    pub(crate) const ALL: [Self; 27] = [
        Self::AckBeforeCommit,
        Self::ResetOnRead,
        Self::NoSandwich,
        Self::BaselineDroppedWithUser,
        Self::BaselineFromZero,
        Self::NoFinalRead,
        Self::TornLocalWrite,
        Self::MergeOfSentBatch,
        Self::EpochKeptAcrossStart,
        Self::ReencodedResend,
        Self::MultiplierAtCommit,
        Self::FenceSkipped,
        Self::LeaseFreedByTime,
        Self::CommandNotDurable,
        Self::LogOvertaken,
        Self::PeriodIdReused,
        Self::LeaseInRawUnits,
        Self::EngineDeathRefunds,
        Self::GrantsBeforeBarrier,
        Self::UnversionedGiveBack,
        Self::EpochNotBumped,
        Self::OtherEngineForgotten,
        Self::FailedReadIsEmpty,
        Self::ForkNotFound,
        Self::TimeByWallClock,
        Self::WriteOffForgets,
        Self::LostReportsOverlooked,
    ];
}
