pub const MAX_SIDE: u32 = 16384;
