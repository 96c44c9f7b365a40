//! A grid of cells as SVG: a block of rows for each source, a column for each number of flows.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::draw::{Area, Drawn, SIZE, anchored, font};
use super::sheet::{Block, Cell, Sheet};
use crate::plot::{FAINT, INK};

/// From the best class to the worst; the last is for what was not tried. They differ in lightness too.
const CLASSES: [RGBColor; 7] = [
    RGBColor(0, 82, 136),
    RGBColor(60, 143, 196),
    RGBColor(142, 196, 226),
    RGBColor(250, 220, 150),
    RGBColor(230, 159, 0),
    RGBColor(190, 72, 0),
    RGBColor(245, 246, 248),
];
/// Classes with white text.
const DARK: [usize; 3] = [0, 1, 5];

const LEFT: i32 = 110;
const TOP: i32 = 108;
const WIDE: i32 = 62;
const TALL: i32 = 25;

/// Draws the blocks below each other and the classes beside them.
pub fn draw<'a>(root: &Area<'a>, sheet: &Sheet, classes: &[String], columns: &[usize], blocks: &[Block]) -> Drawn<'a> {
    let mut top = TOP;
    for Block { heading, rows, .. } in blocks {
        root.draw_text(heading, &font(14), (LEFT, top - 20))?;
        for (name, cells) in rows {
            root.draw_text(name, &anchored(13, HPos::Right, VPos::Center), (LEFT - 10, top + TALL / 2))?;
            for (at, cell) in cells.iter().enumerate() {
                draw_cell(root, cell, LEFT + at as i32 * WIDE, top)?;
            }
            top += TALL;
        }
        top += 34;
    }
    top -= 28;
    for (at, flows) in columns.iter().enumerate() {
        let middle = LEFT + at as i32 * WIDE + WIDE / 2;
        root.draw_text(&flows.to_string(), &anchored(13, HPos::Center, VPos::Top), (middle, top))?;
    }
    let middle = LEFT + columns.len() as i32 * WIDE / 2;
    root.draw_text(&sheet.x, &anchored(14, HPos::Center, VPos::Top), (middle, top + 20))?;
    let upright = anchored(14, HPos::Center, VPos::Center).transform(FontTransform::Rotate270);
    root.draw_text(&sheet.y, &upright, (22, i32::midpoint(TOP, top)))?;
    let left = LEFT + columns.len() as i32 * WIDE + 24;
    for (class, name) in classes.iter().enumerate() {
        let top = TOP + class as i32 * 28;
        let corners = [(left, top), (left + 28, top + 16)];
        root.draw(&Rectangle::new(corners, CLASSES[class % CLASSES.len()].filled()))?;
        root.draw(&Rectangle::new(corners, FAINT.stroke_width(1)))?;
        root.draw_text(name, &font(13), (left + 38, top + 1))?;
    }
    debug_assert!(top < SIZE.1 as i32);
    Ok(())
}

fn draw_cell<'a>(root: &Area<'a>, cell: &Cell, left: i32, top: i32) -> Drawn<'a> {
    let corners = [(left, top), (left + WIDE, top + TALL)];
    root.draw(&Rectangle::new(corners, CLASSES[cell.class % CLASSES.len()].filled()))?;
    root.draw(&Rectangle::new(corners, WHITE.stroke_width(2)))?;
    let ink = if DARK.contains(&cell.class) { WHITE } else { INK };
    let text = anchored(12, HPos::Center, VPos::Center).color(&ink);
    root.draw_text(&cell.text, &text, (left + WIDE / 2, top + TALL / 2))
}
