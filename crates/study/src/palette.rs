//! The colours of the report and of every figure, in the light and in the dark.

use serde::Serialize;

/// Colours that go together.
#[derive(Debug, Serialize)]
pub(crate) struct Palette {
    pub(crate) page: Variables,
    /// One colour per series; the first is also that of bars and points.
    pub(crate) series: [&'static str; 7],
    /// From little to much.
    pub(crate) sequential: Scale,
    /// From negative over zero to positive.
    pub(crate) diverging: Scale,
}

/// Evenly spaced colours, between which others are mixed.
pub(crate) type Scale = [&'static str; 5];

/// The variables of the page's style sheet.
#[derive(Debug, Serialize)]
pub(crate) struct Variables {
    /// Behind everything.
    pub(crate) page: &'static str,
    /// Behind tables and prompts.
    pub(crate) raised: &'static str,
    /// Text, from the most to the least important.
    pub(crate) ink: &'static str,
    pub(crate) soft: &'static str,
    pub(crate) faint: &'static str,
    /// Borders.
    pub(crate) line: &'static str,
    /// Lines behind the marks of a figure.
    pub(crate) grid: &'static str,
    /// Behind what is pointed at.
    pub(crate) hover: &'static str,
    /// Links.
    pub(crate) accent: &'static str,
    /// Behind tokens with a positive and with a negative value: red, green and blue, to be made transparent.
    pub(crate) above: &'static str,
    pub(crate) below: &'static str,
    /// At the edge of what goes on beyond it: red, green and blue, to be made transparent.
    pub(crate) shade: &'static str,
}

pub(crate) static LIGHT: Palette = Palette {
    page: Variables {
        page: "#fcfcfb",
        raised: "#ffffff",
        ink: "#1c1f23",
        soft: "#5d6570",
        faint: "#8a929c",
        line: "#e4e6e8",
        grid: "#e9ebed",
        hover: "#f1f3f5",
        accent: "#1f5fa8",
        above: "255 160 60",
        below: "90 165 235",
        shade: "120 130 145",
    },
    series: ["#0b66b0", "#d55e00", "#00875f", "#b8578f", "#b07700", "#3796c8", "#6b7280"],
    sequential: ["#f4f8fc", "#c6dbef", "#6baed6", "#2171b5", "#08306b"],
    diverging: ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"],
};

pub(crate) static DARK: Palette = Palette {
    page: Variables {
        page: "#14171b",
        raised: "#1b1f24",
        ink: "#e6e8ea",
        soft: "#a3abb5",
        faint: "#78818c",
        line: "#2d333a",
        grid: "#2a3037",
        hover: "#232930",
        accent: "#7db8f2",
        above: "190 92 12",
        below: "30 98 170",
        shade: "0 0 0",
    },
    series: ["#5aa9ee", "#f08a3c", "#35bd92", "#df8fbd", "#e3b341", "#9ad4f5", "#a3abb5"],
    sequential: ["#1a2129", "#16406b", "#1f6fb0", "#6bb1e6", "#e3f1fd"],
    diverging: ["#7db8f2", "#2f6ba8", "#20252b", "#b0532f", "#f7a35c"],
};

/// The colour at `place` of `scale`, from 0 to 1, as `#rrggbb`.
pub(crate) fn mixed(scale: &Scale, place: f64) -> String {
    let place = place.clamp(0.0, 1.0) * (scale.len() - 1) as f64;
    let from = (place as usize).min(scale.len() - 2);
    let part = place - from as f64;
    let channel =
        |stop: usize, i: usize| u8::from_str_radix(&scale[stop][1 + 2 * i..3 + 2 * i], 16).unwrap_or(0) as f64;
    let mix = |i: usize| (channel(from, i) * (1.0 - part) + channel(from + 1, i) * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_the_scale_where_it_has_some() {
        assert_eq!(mixed(&LIGHT.sequential, -1.0), LIGHT.sequential[0]);
        assert_eq!(mixed(&LIGHT.sequential, 2.0), LIGHT.sequential[4]);
        assert_eq!(mixed(&DARK.diverging, 0.5), DARK.diverging[2]);
        assert_eq!(mixed(&["#000000", "#204060", "#ffffff", "#000000", "#000000"], 0.125), "#102030");
    }
}
