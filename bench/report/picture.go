package report

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	scaleWidth  = 14 * vg.Centimeter // beside which stand the names
	barHeight   = 0.9 * vg.Centimeter
	frameHeight = 3 * vg.Centimeter // title and axis
	rightMargin = 1.5 * vg.Centimeter
	barWidth    = 0.5 * vg.Centimeter
	spreadWidth = 0.05 * vg.Centimeter

	// Texts are measured with a font that the reader may not have; then comes another
	// one, which is up to so much wider.
	sans        = "Liberation Sans"
	otherFonts  = ",Arial,Helvetica,sans-serif"
	otherWidens = 0.2
)

var (
	barColor    = color.RGBA{R: 0x4c, G: 0x8b, B: 0xf5, A: 0xff}
	goalColor   = color.RGBA{R: 0xd0, G: 0x3b, B: 0x2f, A: 0xff}
	spreadColor = color.RGBA{R: 0x33, G: 0x33, B: 0x33, A: 0xff}
)

// Picture shows results of a row as bars, each as long as its median, with a line from
// the smallest to the largest value.
type Picture struct {
	Title string
	Axis  string   // what the bars' lengths are, with the unit
	Log   bool     // powers of ten are as far from each other everywhere
	Line  *float64 // a goal, which is drawn across all bars
	Bars  []Result
}

// Pick gives the results of row whose names are there, in that order.
func (row Row) Pick(names ...string) (picked []Result) {
	for _, name := range names {
		for _, r := range row.Results {
			if r.Name == name {
				picked = append(picked, r)
			}
		}
	}
	return picked
}

// Write draws the picture as SVG.
func (p Picture) Write(w io.Writer) error {
	drawing, err := p.draw()
	if err != nil {
		return fmt.Errorf("draw %q: %w", p.Title, err)
	}
	names := drawing.Y.Padding * (1 + 1/otherWidens) // as wide as the longest
	canvas := vgsvg.New(scaleWidth+names, frameHeight+barHeight*font.Length(len(p.Bars)))
	drawing.Draw(draw.Crop(draw.New(canvas), 0, -rightMargin, 0, 0))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return fmt.Errorf("write %q: %w", p.Title, err)
	}
	if _, err := w.Write(bytes.ReplaceAll(svg.Bytes(), []byte(sans), []byte(sans+otherFonts))); err != nil {
		return fmt.Errorf("write %q: %w", p.Title, err)
	}
	return nil
}

func (p Picture) draw() (*plot.Plot, error) {
	drawing := plot.New()
	drawing.Title.Text, drawing.X.Label.Text = p.Title, p.Axis
	drawing.Title.Padding, drawing.X.Padding = vg.Centimeter/4, 0
	for _, text := range []*text.Style{&drawing.Title.TextStyle, &drawing.X.Label.TextStyle, &drawing.X.Tick.Label, &drawing.Y.Tick.Label} {
		text.Font.Variant = "Sans"
	}
	drawing.X.Tick.Marker = ticks{plot.DefaultTicks{}}
	least, most := p.extent()
	drawing.X.Min, drawing.X.Max = 0, 1.05*most
	if p.Log {
		if least <= 0 {
			return nil, fmt.Errorf("%g has no place among powers of ten", least)
		}
		drawing.X.Scale, drawing.X.Tick.Marker = plot.LogScale{}, ticks{plot.LogTicks{Prec: -1}}
		drawing.X.Min, drawing.X.Max = powerOfTen(least, math.Floor), powerOfTen(most, math.Ceil)
	}
	drawing.Add(plotter.NewGrid())
	var names []string
	for _, r := range slices.Backward(p.Bars) { // the plot begins at the bottom
		y := float64(len(names))
		names = append(names, r.Name)
		median, low, high := Median(r.Values), slices.Min(r.Values), slices.Max(r.Values)
		for _, l := range []struct {
			from, to float64
			width    vg.Length
			color    color.Color
		}{{drawing.X.Min, median, barWidth, barColor}, {low, high, spreadWidth, spreadColor}} {
			if err := addLine(drawing, plotter.XYs{{X: l.from, Y: y}, {X: l.to, Y: y}}, l.width, l.color); err != nil {
				return nil, err
			}
		}
	}
	bottom, top := -0.5, float64(len(names))-0.5
	if p.Line != nil {
		if err := addLine(drawing, plotter.XYs{{X: *p.Line, Y: bottom}, {X: *p.Line, Y: top}}, spreadWidth, goalColor); err != nil {
			return nil, err
		}
	}
	drawing.NominalY(names...)
	for _, name := range names {
		drawing.Y.Padding = max(drawing.Y.Padding, otherWidens*drawing.Y.Tick.Label.Width(name))
	}
	drawing.Y.Min, drawing.Y.Max = bottom, top
	return drawing, nil
}

// ticks writes the numbers of an axis as the report's tables do.
type ticks struct{ plot.Ticker }

func (t ticks) Ticks(from, to float64) []plot.Tick {
	all := t.Ticker.Ticks(from, to)
	for i := range all {
		if v := all[i].Value; all[i].Label != "" && v >= 1000 {
			all[i].Label = Count(uint64(math.Round(v)))
		}
	}
	return all
}

// extent is the least and the most that the picture shows.
func (p Picture) extent() (least, most float64) {
	var values []float64
	for _, r := range p.Bars {
		values = append(values, r.Values...)
	}
	if p.Line != nil {
		values = append(values, *p.Line)
	}
	if len(values) == 0 {
		return 0, 1
	}
	return slices.Min(values), slices.Max(values)
}

func powerOfTen(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}

// addLine draws bars, too, since the library's own cannot begin at the edge of a scale of
// powers of ten.
func addLine(to *plot.Plot, points plotter.XYs, width vg.Length, in color.Color) error {
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Width, line.Color = width, in
	to.Add(line)
	return nil
}

// overview is how far every result with a goal is from it.
func (r Report) overview() (p Picture) {
	one := 1.0
	p = Picture{
		Title: "All goals: what ends left of the red line is met", Log: true, Line: &one,
		Axis: "part of the goal (1 is the goal; 0.5 is twice as good)",
	}
	for _, row := range r.Rows {
		number, _, _ := strings.Cut(row.Title, ".")
		for _, result := range row.Results {
			if result.Goal == nil || len(result.Values) == 0 || slices.Min(result.Values) <= 0 {
				continue
			}
			part := Result{Name: number + ": " + strings.TrimPrefix(result.Name, "ratio: ")}
			for _, v := range result.Values {
				if v /= result.Goal.Value; result.Goal.AtLeast {
					v = 1 / v
				}
				part.Values = append(part.Values, v)
			}
			p.Bars = append(p.Bars, part)
		}
	}
	return p
}

// Pictures are all pictures by the names of their files.
func (r Report) Pictures() map[string]Picture {
	all := map[string]Picture{}
	if o := r.overview(); len(o.Bars) > 1 {
		all[r.Prefix+".svg"] = o
	}
	for _, row := range r.Rows {
		for i := range row.Pictures {
			all[row.file(r.Prefix, i)] = row.Pictures[i]
		}
	}
	return all
}

// file is the name of one of the row's pictures.
func (row Row) file(prefix string, i int) string {
	name := fmt.Sprintf("%s-%d", prefix, row.Number())
	if i > 0 {
		name += string(rune('a' + i))
	}
	return name + ".svg"
}
