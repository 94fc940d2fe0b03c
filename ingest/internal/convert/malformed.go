package convert

// Malformed is the error of a record that is no CloudEvent, or not one that Canopy can
// carry, or not one of an application that its topic is for. Trying again is useless. It holds nothing of the record's contents.
type Malformed struct {
	// Reason is one of the Reason constants, fit for a metric's label.
	Reason string

	text string
}

// Error says what is wrong in a sentence for the operator.
func (m *Malformed) Error() string { return "convert record: " + m.text }

// Reasons of a Malformed.
const (
	ReasonNotCloudEvent = "not-cloudevent"
	ReasonSpecVersion   = "specversion"
	ReasonFormat        = "format"
	ReasonJSON          = "json"
	ReasonDepth         = "depth"
	ReasonName          = "name"
	ReasonTwice         = "twice"
	ReasonValue         = "value"
	ReasonUTF8          = "utf8"
	ReasonMissing       = "missing"
	ReasonTime          = "time"
	ReasonData          = "data"
	ReasonTooMany       = "too-many"
	ReasonNoApplication = "no-application"

	// ReasonOtherApplication is that of a hashed topic's record that does not name the
	// application whose topic it is.
	ReasonOtherApplication = "other-application"

	// ReasonContradiction is that of a record that names two applications.
	ReasonContradiction = "contradiction"
)

// All errors are made once: a topic full of malformed records costs no garbage.
var (
	errNotCloudEvent = malformed(ReasonNotCloudEvent, "it has neither the header ce_specversion nor a CloudEvents content type")
	errSpecVersion   = malformed(ReasonSpecVersion, "specversion is not 1.0")
	errFormat        = malformed(ReasonFormat, "its event format is not application/cloudevents+json")
	errJSON          = malformed(ReasonJSON, "its value is not a JSON object")
	errDepth         = malformed(ReasonDepth, "its JSON is nested too deeply")
	errName          = malformed(ReasonName, "an attribute's name is not made of a-z and 0-9, or is reserved")
	errTwice         = malformed(ReasonTwice, "an attribute is given twice")
	errValue         = malformed(ReasonValue, "an attribute's value is of the wrong type")
	errUTF8          = malformed(ReasonUTF8, "an attribute is not UTF-8")
	errID            = malformed(ReasonMissing, "the attribute id is missing or empty")
	errType          = malformed(ReasonMissing, "the attribute type is missing or empty")
	errSource        = malformed(ReasonMissing, "the attribute source is missing or empty")
	errTime          = malformed(ReasonTime, "the attribute time is not an RFC 3339 time")
	errBothData      = malformed(ReasonData, "it has both data and data_base64")
	errBase64        = malformed(ReasonData, "data_base64 is not a base64 string")
	errTooMany       = malformed(ReasonTooMany, "it has too many extensions")
	errNoApplication = malformed(ReasonNoApplication, "neither event, topic nor configuration names an application")

	errOtherApplication = malformed(ReasonOtherApplication, "it does not name an application whose topic it is in")
	errContradiction    = malformed(ReasonContradiction, "its header ce_application is not its event's application")
)

func malformed(reason, text string) error { return &Malformed{Reason: reason, text: text} }
