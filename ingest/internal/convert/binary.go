package convert

import "strings"

const headerPrefix = "ce_"

// readBinary reads an event whose attributes are headers and whose payload is the value.
func (e *envelope) readBinary(contentType []byte, r Record) error {
	if contentType != nil {
		if err := e.set("datacontenttype", contentType, false); err != nil {
			return err
		}
	}
	for i := range r.Headers {
		h := &r.Headers[i]
		if h.Value == nil || len(h.Key) < len(headerPrefix) || !strings.EqualFold(h.Key[:len(headerPrefix)], headerPrefix) {
			continue
		}
		if err := e.set(strings.ToLower(h.Key[len(headerPrefix):]), h.Value, false); err != nil {
			return err
		}
	}
	if len(r.Value) > 0 {
		e.dataKind, e.data = payload, r.Value
	}
	return nil
}
