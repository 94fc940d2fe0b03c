package authz

// Access says as what somebody may read an application.
type Access uint8

// The kinds of access, the least first. The zero value is none.
const (
	None   Access = iota
	Public        // only because everybody may, signed in or not
	Member        // by name or by role, or because Drogue's services allow it to a user
)

// Granted reports whether the application may be read.
func (a Access) Granted() bool { return a != None }

// String returns "none", "public" or "member".
func (a Access) String() string {
	switch a {
	case Public:
		return "public"
	case Member:
		return "member"
	default:
		return "none"
	}
}
