package ws

import (
	"net/http"
	"strings"
	"testing"
)

func TestOffersOfDeflateAreAcceptedOrPassedOver(t *testing.T) {
	const plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for _, c := range []struct {
		header string // lines
		want   string
	}{
		{"permessage-deflate", plain},
		{"permessage-deflate; client_max_window_bits", plain}, // browsers
		{"permessage-deflate;client_max_window_bits=9 ; server_no_context_takeover", plain},
		{"permessage-deflate; client_no_context_takeover; server_no_context_takeover", plain},
		{"Permessage-Deflate; Client_Max_Window_Bits=\"15\"", plain},
		{"permessage-deflate; server_max_window_bits=15", plain + "; server_max_window_bits=15"},
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", plain},
		{"permessage-deflate; server_max_window_bits=10\npermessage-deflate; server_max_window_bits=\"15\"", plain + "; server_max_window_bits=15"},
		{"permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9, permessage-deflate; client_max_window_bits", plain},
		{"x-webkit-deflate-frame, foo; bar=\"a, permessage-deflate\", permessage-deflate", plain},

		{"", ""},
		{"foo", ""},
		{"x-permessage-deflate", ""},
		{"foo; bar=\"a, permessage-deflate\"", ""},
		{"foo; bar=\"a\\\", permessage-deflate", ""},
		{"permessage-deflate=1", ""},
		{"permessage-deflate; server_max_window_bits", ""},
		{"permessage-deflate; server_max_window_bits=14", ""},
		{"permessage-deflate; server_max_window_bits=16", ""},
		{"permessage-deflate; server_max_window_bits=015", ""},
		{"permessage-deflate; client_max_window_bits=7", ""},
		{"permessage-deflate; client_max_window_bits=08", ""},
		{"permessage-deflate; client_max_window_bits=", ""},
		{"permessage-deflate; client_max_window_bits; client_max_window_bits=10", ""},
		{"permessage-deflate; server_no_context_takeover=1", ""},
		{"permessage-deflate; client_no_context_takeover=\"\"", ""},
		{"permessage-deflate; server_no_context_takeover; server_no_context_takeover", ""},
		{"permessage-deflate; level=9", ""},
		{"permessage-deflate;", ""},
	} {
		r := &http.Request{Header: http.Header{}}
		for line := range strings.SplitSeq(c.header, "\n") {
			r.Header.Add("Sec-WebSocket-Extensions", line)
		}
		o := DeflateOffer(r)
		if got := o.answer(); got != c.want || o.Deflate() != (c.want != "") {
			t.Errorf("%q: answer %q, want %q", c.header, got, c.want)
		}
	}
}

// FuzzDeflateOffer checks that what is accepted is an offer, whatever stands around it.
func FuzzDeflateOffer(f *testing.F) {
	f.Add("permessage-deflate; client_max_window_bits")
	f.Add("permessage-deflate; server_max_window_bits=\"15\", foo")
	f.Add("a;b=\"\\")
	f.Fuzz(func(t *testing.T, header string) {
		o := DeflateOffer(&http.Request{Header: http.Header{"Sec-Websocket-Extensions": {header}}})
		lower := strings.ToLower(header)
		if o.Deflate() && !strings.Contains(lower, permessageDeflate) {
			t.Fatalf("%q is taken for an offer", header)
		}
		if answer := o.answer(); strings.Contains(answer, "max_window_bits") && !strings.Contains(lower, "server_max_window_bits") {
			t.Fatalf("%q is answered %q, which nobody has offered", header, answer)
		}
		// An offer that fits is found behind anything that is a list by itself.
		if !strings.ContainsAny(header, "\"\\") {
			behind := http.Header{"Sec-Websocket-Extensions": {header + ", permessage-deflate"}}
			if !DeflateOffer(&http.Request{Header: behind}).Deflate() {
				t.Fatalf("the offer behind %q is not found", header)
			}
		}
	})
}
