// SPDX-License-Identifier: MPL-2.0

//! The layout of feature maps.

use std::ops::Range;

use super::tiles::SIDE;
use crate::processor::kernels::Shape;

/// Feature maps in blocks of 32 channels: `[block][row][column]`, one line for each position.
///
/// A border of zeros lies around each block: a row above, a row below, and one column at the end of each row, which is
/// also the column before the next row. So a position is one number, the distance to each neighbour is a constant, and
/// 16 consecutive positions are the rows of a tile, whatever the size.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    shape: Shape,
}

impl Layout {
    pub fn new(shape: Shape) -> Self {
        assert!(shape.channels.is_multiple_of(SIDE), "{shape:?} is not in blocks of {SIDE} channels");
        Self { shape }
    }

    /// Blocks of 32 channels.
    pub fn blocks(self) -> usize {
        self.shape.channels / SIDE
    }

    /// From a row to the next.
    pub fn pitch(self) -> usize {
        self.shape.width + 1
    }

    /// The first position that is not border.
    pub fn origin(self) -> usize {
        self.pitch() + 1
    }

    /// How many positions from the origin on are computed, in whole pairs of tiles.
    pub fn run(self) -> usize {
        self.image_end().next_multiple_of(SIDE)
    }

    /// From a block to the next. It includes what the last tile reads of the row below.
    pub fn block(self) -> usize {
        self.run() + 2 * self.origin()
    }

    /// Lines of all blocks.
    pub fn lines(self) -> usize {
        self.blocks() * self.block()
    }

    /// A row of a block.
    pub fn row(self, block: usize, row: usize) -> Range<usize> {
        let start = block * self.block() + self.origin() + row * self.pitch();
        start..start + self.shape.width
    }

    /// A row of a block with the border that follows it; for the first row also the border above, and for the last the
    /// border below. Together they are the whole block.
    pub fn row_with_border(self, block: usize, row: usize) -> Range<usize> {
        let at = |row: usize| match row {
            0 => block * self.block(),
            row if row == self.shape.height => (block + 1) * self.block(),
            row => self.row(block, row).start,
        };
        at(row)..at(row + 1)
    }

    /// How far from the origin the image ends.
    pub fn image_end(self) -> usize {
        self.shape.height * self.pitch()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_neighbours_of_the_image_are_in_its_block() {
        for (width, height) in [(1, 1), (1, 7), (15, 1), (31, 3), (32, 2), (33, 40)] {
            let layout = Layout::new(Shape { channels: 64, height, width });
            assert_eq!(layout.lines(), 2 * layout.block());
            let mut inside = vec![false; layout.lines()];
            for block in 0..2 {
                let mut end = block * layout.block();
                for row in 0..height {
                    inside[layout.row(block, row)].fill(true);
                    let with_border = layout.row_with_border(block, row);
                    assert!(with_border.start == end && with_border.end >= layout.row(block, row).end);
                    end = with_border.end;
                }
                assert_eq!(end, (block + 1) * layout.block());
            }
            for at in (0..layout.lines()).filter(|at| inside[*at]) {
                // To the left, to the right, above and below is the image or its border.
                let position = at % layout.block() - layout.origin();
                let (x, y) = (position % layout.pitch(), position / layout.pitch());
                assert!(position < layout.image_end());
                assert_eq!(inside[at - 1], x > 0);
                assert_eq!(inside[at + 1], x + 1 < width);
                assert_eq!(inside[at - layout.pitch()], y > 0);
                assert_eq!(inside[at + layout.pitch()], y + 1 < height);
            }
        }
    }
}
