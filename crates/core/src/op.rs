//! Operations that a trace may ask for, with the mnemonics of AttAcc's text form.

use serde::Deserialize;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $attacc:literal;)+) => {
        /// One operation. The discriminants are part of the binary format: append, never renumber.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, bincode::Encode, bincode::Decode)]
        #[repr(u8)]
        pub enum Op {
            $($(#[$doc])* $name,)+
        }

        impl Op {
            /// All operations.
            pub const ALL: &'static [Op] = &[$(Op::$name),+];
            /// How many there are.
            pub const COUNT: usize = Op::ALL.len();

            /// Mnemonic in the text form.
            pub fn mnemonic(self) -> &'static str {
                match self { $(Op::$name => $text,)+ }
            }

            /// The operation with this mnemonic.
            pub fn parse(text: &str) -> Option<Op> {
                match text { $($text => Some(Op::$name),)+ _ => None }
            }

            /// Whether AttAcc's simulator knows the mnemonic.
            pub fn in_attacc(self) -> bool {
                match self { $(Op::$name => $attacc,)+ }
            }
        }
    };
}

ops! {
    /// Read one column.
    Ld = "LD", true;
    /// Write one column.
    St = "ST", true;
    /// Multiply-accumulate one column in all banks of the channel, all at the same row.
    MacAb = "PIM_MAC_AB", true;
    /// Multiply-accumulate one column in the same bank of every bank group.
    MacSb = "PIM_MAC_SB", true;
    /// Multiply-accumulate one column in one bank of each pseudo-channel.
    MacPb = "PIM_MAC_PB", true;
    /// Write one entry of the GEMV buffers.
    WrGb = "PIM_WR_GB", true;
    /// Move one entry of results to the softmax buffer.
    MvSb = "PIM_MV_SB", true;
    /// Move one entry of probabilities to the GEMV buffers.
    MvGb = "PIM_MV_GB", true;
    /// Softmax of one head. Row and column of its address, read as one number, are the entries of scores that it is over;
    /// AttAcc's traces say nothing of it (0).
    Sfm = "PIM_SFM", true;
    /// Set the model parameters.
    SetModel = "PIM_SET_MODEL", true;
    /// Set the head parameters.
    SetHead = "PIM_SET_HEAD", true;
    /// Nothing of the channel behind it starts before everything ahead of it; row opening may.
    Barrier = "PIM_BARRIER", true;
    /// Have a row of one bank group open for the PIM_MAC_BG that follow, until its PIM_PRE_BG or another kind of MAC.
    ActBg = "PIM_ACT_BG", false;
    /// Close the row of one bank group.
    PreBg = "PIM_PRE_BG", false;
    /// Multiply-accumulate one column in every bank group that PIM_ACT_BG opened, each at its own row.
    MacBg = "PIM_MAC_BG", false;
    /// All channels meet: nothing behind it starts before everything ahead of it in every channel.
    Sync = "PIM_SYNC", false;
    /// The host works for one tCK, between what is ahead in the channel and what is behind: a barrier that takes time.
    Host = "PIM_HOST", false;
}

impl Op {
    /// All mnemonics.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Op::ALL.iter().map(|o| o.mnemonic())
    }

    /// Whether it multiplies and accumulates.
    #[inline]
    pub fn is_mac(self) -> bool {
        matches!(self, Op::MacAb | Op::MacSb | Op::MacPb | Op::MacBg)
    }

    /// Whether it is an ordering mark rather than work.
    #[inline]
    pub fn is_mark(self) -> bool {
        matches!(self, Op::Barrier | Op::Sync | Op::Host)
    }
}
