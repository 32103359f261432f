package rocketmq

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"slices"
)

// Credentials sign requests for brokers with ACL on (conf/plain_acl.yml).
type Credentials struct {
	AccessKey, SecretKey string
	// SecurityToken is sent and signed when not empty.
	SecurityToken string
}

// String shows the access key only, so that no log gets the secret.
func (c Credentials) String() string { return "credentials of " + c.AccessKey }

// GoString is String, for %#v.
func (c Credentials) GoString() string { return c.String() }

// Header fields of a signed request (SessionCredentials.java).
const (
	fieldAccessKey     = "AccessKey"
	fieldSecurityToken = "SecurityToken"
	fieldSignature     = "Signature"
)

// sign adds AccessKey and Signature to the request's fields: Base64 of HMAC-SHA1, by the secret
// key, of all fields' values in the order of their names followed by the body. That is what
// brokers compute again from what they got (PlainAccessValidator.parse in 4.5.2,
// DefaultAuthenticationContextBuilder.build in 5.3.3).
func (c *Credentials) sign(request *Command) {
	if request.Fields == nil {
		request.Fields = map[string]string{}
	}
	delete(request.Fields, fieldSignature)
	request.Fields[fieldAccessKey] = c.AccessKey
	if c.SecurityToken != "" {
		request.Fields[fieldSecurityToken] = c.SecurityToken
	}
	mac := hmac.New(sha1.New, []byte(c.SecretKey))
	for _, name := range slices.Sorted(maps.Keys(request.Fields)) {
		mac.Write([]byte(request.Fields[name]))
	}
	mac.Write(request.Body)
	request.Fields[fieldSignature] = base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
