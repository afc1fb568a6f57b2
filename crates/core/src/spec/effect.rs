//! What commands do, said once: everything that schedules, counts or checks commands asks here.

use serde::Deserialize;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Opens the addressed row.
    Open,
    /// Closes whatever row is open.
    Close,
    /// Reads a column of the open row.
    Read,
    /// Writes a column of the open row.
    Write,
    /// Multiplies a column of the open row in every bank of its scope.
    Mac,
    /// As `Mac`, in those bank groups that have a row open, each at its own row.
    MacOpen,
    /// Refreshes; all banks of its scope must be closed.
    Refresh,
    /// Moves one buffer entry.
    Move,
    /// Starts the softmax unit.
    Softmax,
    /// Sets a mode register.
    Configure,
}

/// The path by which requests reach the banks: requests of one class have queues and an order of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// MACs, and the rows that are opened and closed for them.
    Array,
    /// Buffers, the softmax unit and mode registers: no bank takes part.
    Buffer,
    /// Reads and writes, which are scheduled first-ready, first-come.
    Data,
}

/// What a cycle counts as while a command is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Units multiply columns of open rows.
    Mac,
    /// Banks are closed to all else while they are refreshed.
    Refresh,
    /// The softmax unit works on scores.
    Softmax,
    /// Buffer entries, or columns read and written, are on their way.
    Movement,
    /// Rows are precharged and activated.
    RowSwitch,
}

/// What is to be known of a command's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// Whether it opens rows.
    pub opens: bool,
    /// Whether it closes rows.
    pub closes: bool,
    /// Whether it finds the row open that it works on: its request needs one that opens it, and one that closes another.
    pub needs_row: bool,
    /// Whether the request that it completes is a row hit, miss or conflict. A MAC of bank groups is none: the requests that
    /// opened its rows are.
    pub has_row_outcome: bool,
    /// Whether units multiply a column of their open rows: a MAC.
    pub multiplies: bool,
    /// Whether it moves data, of which the last is there some time after the command.
    pub moves_data: bool,
    /// By which path it reaches the banks.
    pub class: Class,
    /// What its time counts as.
    pub activity: Activity,
}

impl Effect {
    /// The description of an effect. Only what is peculiar to a single effect is asked by its name elsewhere.
    #[inline]
    pub const fn properties(self) -> Properties {
        let none = Properties {
            opens: false,
            closes: false,
            needs_row: false,
            has_row_outcome: false,
            multiplies: false,
            moves_data: false,
            class: Class::Buffer,
            activity: Activity::Movement,
        };
        let row = Properties { class: Class::Array, activity: Activity::RowSwitch, ..none };
        let data = Properties { needs_row: true, has_row_outcome: true, moves_data: true, class: Class::Data, ..none };
        let mac =
            Properties { needs_row: true, multiplies: true, class: Class::Array, activity: Activity::Mac, ..none };
        match self {
            Effect::Open => Properties { opens: true, has_row_outcome: true, ..row },
            Effect::Close => Properties { closes: true, ..row },
            Effect::Read | Effect::Write => data,
            Effect::Mac => Properties { has_row_outcome: true, ..mac },
            Effect::MacOpen => mac,
            Effect::Refresh => Properties { activity: Activity::Refresh, ..none },
            Effect::Move => Properties { moves_data: true, ..none },
            Effect::Softmax => Properties { activity: Activity::Softmax, ..none },
            Effect::Configure => none,
        }
    }

    /// Whether it opens rows.
    #[inline]
    pub const fn opens(self) -> bool {
        self.properties().opens
    }

    /// Whether it closes rows.
    #[inline]
    pub const fn closes(self) -> bool {
        self.properties().closes
    }

    /// Whether it opens or closes rows, and does nothing else.
    #[inline]
    pub const fn is_row_command(self) -> bool {
        self.opens() || self.closes()
    }

    /// Whether it works on the column of an open row.
    #[inline]
    pub const fn needs_row(self) -> bool {
        self.properties().needs_row
    }

    /// Whether units multiply a column of their open rows: a MAC.
    #[inline]
    pub const fn multiplies(self) -> bool {
        self.properties().multiplies
    }

    /// Whether it reads or writes.
    #[inline]
    pub const fn is_data(self) -> bool {
        matches!(self.class(), Class::Data)
    }

    /// Whether it refreshes rows, so that its banks must be closed before it.
    #[inline]
    pub const fn refreshes(self) -> bool {
        matches!(self.properties().activity, Activity::Refresh)
    }

    /// Whether no bank takes part: buffers, softmax and mode registers.
    #[inline]
    pub const fn is_buffer_work(self) -> bool {
        matches!(self.class(), Class::Buffer) && !self.refreshes()
    }

    /// The path by which it reaches the banks.
    #[inline]
    pub const fn class(self) -> Class {
        self.properties().class
    }
}
